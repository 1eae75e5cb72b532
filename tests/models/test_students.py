"""Students on disk, and back."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from understudy.data.augment.crops import fitted, resized
from understudy.models import Network, create_model, load_student, load_student_network, network_of, save_student
from understudy.utils.errors import UserError

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = ["rose", "tulip", "Ænglisc \N{HIBISCUS}"]


def logits_of(network: Network) -> torch.Tensor:
    with torch.no_grad():
        return network.prepared.eval()(IMAGES)


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "cifar:resnet8", "cifar:mobilenetv2_tiny"])
def test_timm_reads_the_folder_with_its_label_names(tmp_path: Path, name: str) -> None:
    network = create_model(name, num_classes=3, weights="none", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    save_student(tmp_path / "student", network, LABELS, image_size=32)
    module = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True).eval()
    assert module.pretrained_cfg["label_names"] == LABELS
    assert module.pretrained_cfg["input_size"] == [3, 32, 32]
    assert list(module.pretrained_cfg["mean"]) == network.mean
    with torch.no_grad():
        assert torch.equal(module(network.prepare(IMAGES)), logits_of(network))


def test_timm_rebuilds_constructor_arguments_and_size(tmp_path: Path) -> None:
    network = create_model(
        "timm:vit_tiny_patch16_224", num_classes=3, weights="none", image_size=32, kwargs={"depth": 1}
    )
    save_student(tmp_path, network)
    module = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(module(network.prepare(IMAGES)), logits_of(network))
        assert torch.equal(load_student(tmp_path)(IMAGES), logits_of(network))


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("timm:mobilenetv3_small_050", {}),
        ("cifar:resnet8", {"width": 0.5}),
        ("torchvision:shufflenet_v2_x0_5", {}),
    ],
)
def test_load_student_gives_the_same_logits_for_plain_images(
    tmp_path: Path, name: str, kwargs: dict[str, float]
) -> None:
    network = create_model(
        name, num_classes=3, weights="none", image_size=24, mean=(0.5,) * 3, std=(0.2,) * 3, kwargs=kwargs
    )
    save_student(tmp_path / "run" / "student", network, LABELS)
    for folder in ("run", "run/student"):
        loaded = load_student(tmp_path / folder)
        assert not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded(IMAGES), logits_of(network))


def test_unprepared_students_have_the_plain_keys(tmp_path: Path) -> None:
    network = create_model("cifar:resnet8", num_classes=3)
    save_student(tmp_path, network)
    assert list(load_student(tmp_path, prepared=False).state_dict()) == list(network.module.state_dict())


@pytest.mark.parametrize("name", ["cifar:resnet8", "timm:mobilenetv3_small_050", "own"])
def test_a_loaded_student_carries_the_names_of_its_classes(tmp_path: Path, name: str) -> None:
    network = network_of(Tiny(), num_classes=3) if name == "own" else create_model(name, num_classes=3, weights="none")
    module = Tiny() if name == "own" else None
    save_student(tmp_path / "named", network, LABELS, image_size=32)
    save_student(tmp_path / "unnamed", network)
    for _ in range(2):  # into the same module, where one was given
        assert load_student(tmp_path / "named", module=module).classes == tuple(LABELS)
        assert load_student(tmp_path / "unnamed", module=module).classes is None
    assert load_student_network(tmp_path / "named", module=module).classes == tuple(LABELS)


def test_a_student_without_normalisation_stays_without(tmp_path: Path) -> None:
    save_student(tmp_path, create_model("cifar:resnet8", num_classes=3))
    assert load_student_network(tmp_path).mean is None


def test_a_students_folder_serves_as_weights_with_its_own_normalisation(tmp_path: Path) -> None:
    first = create_model("cifar:resnet8", num_classes=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    save_student(tmp_path, first)
    again = create_model("cifar:resnet8", num_classes=3, weights=str(tmp_path), mean=(0.1,) * 3, std=(0.1,) * 3)
    assert torch.equal(logits_of(again), logits_of(first))
    assert again.starts_from == str(tmp_path)


def test_a_factorys_student_is_rebuilt_only_where_code_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_for_test.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    network = create_model("own_for_test:net", num_classes=3)
    save_student(tmp_path / "student", network)
    monkeypatch.delitem(sys.modules, "own_for_test")
    with pytest.raises(UserError, match=r"names own_for_test:net, which is code .*allow_code=True"):
        load_student("student")
    assert "own_for_test" not in sys.modules
    with torch.no_grad():
        assert torch.equal(load_student("student", allow_code=True)(IMAGES), logits_of(network))


class Tiny(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))


class HasClasses(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(1, 1)


def test_a_part_that_a_network_calls_classes_is_left_alone(tmp_path: Path) -> None:
    save_student(tmp_path, network_of(HasClasses(), num_classes=3), LABELS)
    assert isinstance(load_student(tmp_path, module=HasClasses()).classes, nn.Linear)


def test_a_module_handed_over_in_python_is_read_into_one_that_is_built_alike(tmp_path: Path) -> None:
    network = network_of(Tiny(), num_classes=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    save_student(tmp_path, network)
    with pytest.raises(UserError, match=r"weights of a Tiny that was handed over.*module=Tiny\(\.\.\.\)"):
        load_student(tmp_path)
    with torch.no_grad():
        assert torch.equal(load_student(tmp_path, module=Tiny())(IMAGES), logits_of(network))


PHOTO = torch.rand(2, 3, 60, 45, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["timm:test_resnet", "cifar:resnet8", "own"])
def test_images_of_other_sizes_are_resized_and_cut_as_evaluation_does(tmp_path: Path, name: str) -> None:
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    network = network_of(own, num_classes=3) if name == "own" else create_model(name, num_classes=3, weights="none")
    save_student(tmp_path, network, image_size=24, crop_share=24 / 27)
    loaded = load_student(tmp_path, module=copy.deepcopy(own) if name == "own" else None)
    plain = network.prepared.eval()
    with torch.no_grad():
        for images in (PHOTO, IMAGES, torch.rand(1, 3, 20, 20)):
            assert torch.equal(loaded(images), plain(fitted(images, 24)))
        of_its_size = torch.rand(2, 3, 24, 24)
        assert torch.equal(loaded(of_its_size), plain(of_its_size))


def test_images_four_times_as_large_get_the_same_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiles = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    module = nn.Sequential(nn.Conv2d(3, 3, 3, stride=4, padding=1), tiles)  # which depends on the size of what is shown
    save_student(tmp_path, network_of(module, num_classes=3), image_size=16)
    loaded = load_student(tmp_path, module=copy.deepcopy(module))
    scene = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    large = scene.repeat_interleave(16, 2).repeat_interleave(16, 3)
    small = resized(large, 16)
    with torch.no_grad():
        expected = module.eval()(small)
        assert torch.equal(loaded(small), expected)
        assert torch.equal(loaded(large).argmax(1), expected.argmax(1))
        assert not torch.equal(module(large).argmax(1), expected.argmax(1))


def test_a_folder_that_says_no_size_leaves_images_as_they_come(tmp_path: Path) -> None:
    network = create_model("cifar:resnet8", num_classes=3, weights="none")
    save_student(tmp_path, network, image_size=16)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["understudy"].pop("crop_share") == 1.0  # as before it was kept
    config["understudy"]["resize_to"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        assert torch.equal(load_student(tmp_path)(IMAGES), logits_of(network))


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.module(images)


@pytest.mark.parametrize("wrapped", [Wrapper, nn.DataParallel])
def test_a_student_whose_network_lies_under_module_is_read_as_it_was_written(
    tmp_path: Path, wrapped: type[nn.Module]
) -> None:
    network = network_of(wrapped(Tiny()), num_classes=3)
    save_student(tmp_path, network)
    with torch.no_grad():
        for module in (wrapped(Tiny()), Tiny()):  # and what was within it can be had alone
            assert torch.equal(load_student(tmp_path, module=module)(IMAGES), logits_of(network))


def test_tied_and_channels_last_weights_are_saved(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), *Tiny())
    module[1].weight = module[0].weight
    module.to(memory_format=torch.channels_last)
    network = network_of(module, num_classes=3)
    save_student(tmp_path, network)
    alike = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), *Tiny())
    with torch.no_grad():
        assert torch.allclose(load_student(tmp_path, module=alike)(IMAGES), logits_of(network), atol=1e-6)


def test_other_weights_of_the_same_network_are_saved_by_replacing_its_module(tmp_path: Path) -> None:
    network, other = (create_model("cifar:resnet8", num_classes=3) for _ in range(2))
    save_student(tmp_path, replace(network, module=other.module))
    with torch.no_grad():
        assert torch.equal(load_student(tmp_path)(IMAGES), logits_of(other))


def test_saving_replaces_links_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"precious")
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside)
    save_student(folder, create_model("cifar:resnet8", num_classes=3))
    assert outside.read_bytes() == b"precious"
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_label_names_must_be_as_many_as_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 label names for the 3 classes of cifar:resnet8"):
        save_student(tmp_path, create_model("cifar:resnet8", num_classes=3), ["a", "b"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (None, "holds no student"),
        ("{", "not readable as JSON"),
        ("[]", "must hold a mapping, got list"),
        (json.dumps({"understudy": {"name": "cifar:resnet8"}}), "holds no student"),
        (json.dumps({"architecture": "resnet18"}), r"understudy did not write; timm.create_model\('local-dir:"),
    ],
)
def test_a_folder_that_holds_no_student_is_refused(tmp_path: Path, config: str | None, text: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match=text):
        load_student(tmp_path)
