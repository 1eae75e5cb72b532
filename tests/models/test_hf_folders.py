"""Networks of Hugging Face's transformers: as students on disk, and with or without the hub."""

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor

from helpers.own_time import timed
from understudy.models import create_model, load_student, load_student_network, save_student
from understudy.utils.errors import UserError

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install .[hf])")
transformers.utils.logging.disable_progress_bar()

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def logits_of(model: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(images)


@pytest.mark.parametrize("folder", ["vit", "resnet"])
def test_a_saved_student_is_rebuilt_without_what_it_came_from(
    folder: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    origin = request.getfixturevalue(folder)
    network = create_model(f"hf:{origin}", num_classes=3, weights="none", mean=(0.5,) * 3, std=(0.5,) * 3)
    save_student(tmp_path / "student", network, ["a", "b", "c"])
    expected = logits_of(network.prepared)
    shutil.rmtree(origin)
    assert torch.equal(logits_of(load_student(tmp_path / "student")), expected)
    again = load_student_network(tmp_path / "student")
    assert (again.name, again.mean, again.prepare.size) == (network.name, network.mean, network.prepare.size)


def test_transformers_reads_a_students_folder_with_its_label_names(resnet: Path, tmp_path: Path) -> None:
    network = create_model(f"hf:{resnet}", num_classes=3, weights="none")
    save_student(tmp_path / "student", network, ["rose", "tulip", "hibiscus"], image_size=16, crop_share=0.5)
    own = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "student")
    pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(pixels.numpy()).resize((32, 32), Image.Resampling.NEAREST)
    prepared = processor(images=picture, return_tensors="pt")["pixel_values"]
    unit = pil_to_tensor(picture)[None, :, 8:24, 8:24] / 255
    assert own.config.id2label == {0: "rose", 1: "tulip", 2: "hibiscus"}
    with torch.no_grad():
        assert torch.allclose(own(prepared).logits, logits_of(network.prepared, unit), atol=1e-5)


def test_a_students_folder_is_a_model_too(vit: Path, tmp_path: Path) -> None:
    network = create_model(f"hf:{vit}", num_classes=3)
    save_student(tmp_path / "student", network)
    again = create_model(f"hf:{tmp_path / 'student'}", num_classes=3, weights="pretrained")
    assert again.mean == pytest.approx(network.mean, abs=1e-5)
    assert torch.allclose(logits_of(again.prepared), logits_of(network.prepared), atol=1e-5)


def test_a_folder_that_understudy_did_not_write_is_no_student_but_a_model(vit: Path) -> None:
    with pytest.raises(UserError, match=f"understudy did not write; as a network it is hf:{vit}"):
        load_student(vit)


@pytest.mark.parametrize(
    "settings",
    [
        {
            "model_type": "hiera", "image_size": [32, 32], "patch_stride": [4, 4], "embed_dim": 8, "num_heads": [1, 1],
            "depths": [1, 1], "query_stride": [2, 2], "masked_unit_size": [8, 8], "num_query_pool": 1,
        },
        {
            "model_type": "siglip",
            "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32},
            "text_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8},
        },
    ],
    ids=["as a pair", "for its images"],
)  # fmt: skip
def test_an_image_size_is_found_and_changed_wherever_a_configuration_names_it(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    assert create_model("hf:mine", num_classes=3, kwargs=settings).prepare.size == 32
    network = create_model("hf:mine", num_classes=3, image_size=64, kwargs=settings)
    assert network.prepare.size == 64
    save_student(tmp_path, network)
    assert torch.equal(logits_of(load_student(tmp_path)), logits_of(network.prepared))


def test_without_transformers_the_way_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *rest: Any) -> Any:
        if name == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'")
        return importlib.__import__(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UserError, match=r"need transformers \(No module.*pip install 'understudy\[hf\]'"):
        create_model("hf:google/vit-base-patch16-224", num_classes=3)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a hub that refuses connections; gives the cache's folder."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(folder: Path, cache: Path, files: list[str]) -> str:
    """`folder`'s files as the hub's library caches them; gives the name that they are cached under."""
    repo = cache / "models--me--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("abc")
    (repo / "snapshots/abc").mkdir(parents=True)
    for file in files:
        shutil.copy(folder / file, repo / "snapshots/abc" / file)
    return "hf:me/tiny"


def test_without_a_network_it_says_so_at_once(no_hub: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        timed() as watch,
        pytest.raises(UserError, match=r"hf:google/vit-base-patch16-224 cannot be had: 127.0.0.1 cannot be reached"),
    ):
        create_model("hf:google/vit-base-patch16-224", num_classes=3)
    assert watch.asleep < 10
    assert capfd.readouterr() == ("", "")
    assert constants.HF_HUB_OFFLINE is False


def test_a_cached_network_is_found_without_a_network(
    vit: Path, no_hub: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = cached(vit, no_hub, ["config.json", "preprocessor_config.json", "model.safetensors"])
    transformers.utils.logging.enable_progress_bar()
    try:
        network = create_model(name, num_classes=3)
    finally:
        transformers.utils.logging.disable_progress_bar()
    assert network.starts_from == "pretrained weights"
    assert network.mean == pytest.approx([0.5, 0.4, 0.3], abs=1e-6)
    assert capfd.readouterr() == ("", "")


def test_a_cached_configuration_without_weights_starts_at_random_and_says_so(vit: Path, no_hub: Path) -> None:
    network = create_model(cached(vit, no_hub, ["config.json", "preprocessor_config.json"]), num_classes=3)
    assert network.starts_from == "random weights (no pretrained ones could be had: 127.0.0.1 cannot be reached)"


def test_a_processor_that_cannot_be_reached_is_not_taken_for_none(vit: Path, no_hub: Path) -> None:
    with pytest.raises(UserError, match=r"hf:me/tiny cannot be had: 127.0.0.1 cannot be reached"):
        create_model(cached(vit, no_hub, ["config.json", "model.safetensors"]), num_classes=3)
