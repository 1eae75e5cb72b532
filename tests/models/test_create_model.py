"""Networks by name: what is built, from which weights, under which normalisation."""

import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from helpers.own_time import timed
from understudy.models import create_model
from understudy.utils.errors import UserError

STUDENT = "timm:mobilenetv3_small_050"


@pytest.fixture
def nothing_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a hub that refuses connections; gives the cache's folder."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def own_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The name of a module in the current directory."""
    (tmp_path / "mine_for_test.py").write_text(
        "from torch import nn\n"
        "def net(num_classes=2, hidden=4):\n"
        "    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(pool, nn.Linear(3, hidden), nn.Linear(hidden, num_classes))\n"
        "def fixed():\n"
        "    return nn.Linear(1, 7)\n"
        "def asks(width):\n"
        "    return nn.Linear(1, width)\n"
        "def broken():\n"
        "    raise KeyError('width')\n"
        "def text():\n"
        "    return 'resnet'\n"
    )
    (tmp_path / "unfinished_for_test.py").write_text("def net(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_for_test", raising=False)
    return "mine_for_test"


def test_a_timm_network_normalises_as_it_was_trained() -> None:
    network = create_model("timm:vit_tiny_patch16_224", num_classes=3, weights="none", mean=(0.1,) * 3, std=(0.1,) * 3)
    assert network.mean == network.std == [0.5, 0.5, 0.5]
    assert (network.input_size, network.num_classes, network.starts_from) == (224, 3, "random weights")


def test_a_network_of_fixed_size_resizes_what_comes() -> None:
    network = create_model("timm:vit_tiny_patch16_224", num_classes=3, weights="none")
    assert network.prepare(torch.rand(1, 3, 32, 32)).shape == (1, 3, 224, 224)


def test_a_network_of_fixed_size_can_be_built_for_another() -> None:
    network = create_model("timm:vit_tiny_patch16_224", num_classes=3, weights="none", image_size=32)
    assert network.prepared(torch.rand(2, 3, 48, 48)).shape == (2, 3)
    assert (network.input_size, network.module.patch_embed.img_size) == (32, (32, 32))


def test_a_network_of_any_size_takes_images_as_they_come() -> None:
    network = create_model("cifar:resnet8", num_classes=3, weights="none")
    assert network.prepare(torch.rand(1, 3, 20, 20)).shape == (1, 3, 20, 20)


def test_a_cifar_network_takes_the_normalisation_of_the_data() -> None:
    network = create_model("cifar:resnet8", num_classes=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    white = network.prepare(torch.ones(1, 3, 1, 1)).flatten()
    assert torch.allclose(white, torch.tensor([2.5, 3.0, 7.0]))
    assert network.starts_from == "random weights"


def test_without_statistics_images_stay_as_they_are() -> None:
    images = torch.rand(1, 3, 4, 4)
    assert torch.equal(create_model("cifar:resnet8", num_classes=3).prepare(images), images)


def test_a_mean_without_a_std_is_refused() -> None:
    with pytest.raises(UserError, match="mean and std go together"):
        create_model("cifar:resnet8", num_classes=3, mean=(0.5, 0.5, 0.5))


def test_normalisation_stays_out_of_the_state_dict() -> None:
    network = create_model("cifar:resnet8", num_classes=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert network.prepare.state_dict() == {}
    assert set(network.module.state_dict()) == set(timm.create_model("cifar_resnet8").state_dict())


def test_a_torchvision_network_has_its_own_normalisation_and_size() -> None:
    network = create_model("torchvision:mobilenet_v3_small", num_classes=3, weights="none")
    assert (network.mean, network.input_size) == ([0.485, 0.456, 0.406], 224)
    assert network.prepared.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 3)


def test_torchvision_networks_return_logits_alone_in_training() -> None:
    network = create_model("torchvision:googlenet", num_classes=3, weights="none")
    assert network.module.train()(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_a_factory_of_ones_own_gets_the_number_of_classes(own_code: str) -> None:
    path_before = list(sys.path)
    network = create_model(f"{own_code}:net", num_classes=5, kwargs={"hidden": 6})
    assert network.prepared(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    assert network.module[1].out_features == 6
    assert sys.path == path_before


def test_a_network_of_ones_own_is_named_by_its_file_wherever_that_lies(own_code: str, tmp_path: Path) -> None:
    there = tmp_path / "else where"
    there.mkdir()
    (there / "sizes_beside.py").write_text("WIDTH = 6\n")
    (there / "small.py").write_text(
        "from torch import nn\nfrom sizes_beside import WIDTH\nclass Small(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(192, WIDTH), nn.Linear(WIDTH, num_classes))\n"
    )
    first = create_model(f"{there}/small.py:Small", num_classes=5)
    assert first.prepared(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    assert type(first.module) is type(create_model(f"{there}/small.py:Small", num_classes=3).module)
    assert create_model(f"{own_code}.py:net", num_classes=4, kwargs={"hidden": 6}).module[1].out_features == 6


def test_a_factory_that_takes_no_number_of_classes_is_called_without(own_code: str) -> None:
    assert create_model(f"{own_code}:fixed", num_classes=7).module.out_features == 7


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet34", r"does not say where it comes from.*did you mean timm:resnet34 or torchvision:resnet34"),
        ("resnet8x4", r"does not say where it comes from.*did you mean cifar:resnet8x4\?"),
        (
            "timm:",
            "does not say where it comes from; write timm:NAME, .*hf:NAME, .*ultralytics:NAME, FILE.py:Class or mod",
        ),
        ("timm:resnet34x", r"timm has no model 'resnet34x'; did you mean .*resnet34"),
        ("timm:resnet34.nonsense", r"timm has no weights named 'resnet34.nonsense'; there are: .*resnet34.a1_in1k"),
        ("torchvision:resnet81", r"torchvision has no model 'resnet81'; did you mean resnet\d+"),
        ("torchvision:zzzz", r"the 97 of torchvision are: alexnet, "),
        ("cifar:resnet9", r"cifar has no model 'resnet9'; did you mean resnet8"),
        ("no.such.module:net", "cannot import no.such.module"),
        ("timn:resnet34", "cannot import timn .*Named models are timm:NAME"),
        ("mine_for_test:nett", "mine_for_test:nett': nett is unknown; did you mean net?"),
        ("mine_for_test:broken", "the factory failed: KeyError: 'width'"),
        ("mine_for_test.py", "names a file; say which network of it is meant, too: mine_for_test.py:CLASS"),
        ("mine_for_test.py:", "names a file; say which network of it is meant, too: mine_for_test.py:CLASS"),
        ("mine_for_test:asks", r"missing 1 required .* 'width'; what it takes beside num_classes is kwargs"),
        ("mine_for_test.py:nett", "mine_for_test.py:nett': nett is unknown; did you mean net?"),
        ("unfinished_for_test.py:net", "importing unfinished_for_test.py failed: SyntaxError"),
        ("nowhere_for_test.py:net", "there is no file nowhere_for_test.py in /"),
        ("unfinished_for_test:net", "importing unfinished_for_test failed: SyntaxError"),
        ("mine_for_test:text", "must return an nn.Module, got str"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_there_is(own_code: str, name: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        create_model(name, num_classes=3, weights="none")


def test_code_is_not_even_imported_where_it_is_not_allowed(own_code: str) -> None:
    with pytest.raises(UserError, match="would run code from mine_for_test; allow that"):
        create_model(f"{own_code}:net", num_classes=3, allow_code=False)
    assert own_code not in sys.modules


def test_arguments_that_a_network_does_not_take_are_named() -> None:
    with pytest.raises(UserError, match=r"cifar:resnet8 cannot be built with depht=3: .*depht"):
        create_model("cifar:resnet8", num_classes=3, kwargs={"depht": 3})


def test_no_classes_are_refused() -> None:
    with pytest.raises(UserError, match="num_classes must be at least 1, got 0"):
        create_model("cifar:resnet8", num_classes=0)


def test_without_a_network_random_weights_are_taken_and_said_at_once(
    nothing_published: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with timed() as watch:
        network = create_model(STUDENT, num_classes=3)
    assert network.starts_from == "random weights (no pretrained ones could be had: 127.0.0.1 cannot be reached)"
    assert watch.asleep < 10  # huggingface_hub's own six tries a file take 46 s
    assert capfd.readouterr() == ("", "")


def test_a_failed_attempt_leaves_the_random_weights_as_they_would_have_been(nothing_published: Path) -> None:
    torch.manual_seed(0)
    tried = create_model(STUDENT, num_classes=3).module.state_dict()
    torch.manual_seed(0)
    plain = create_model(STUDENT, num_classes=3, weights="none").module.state_dict()
    assert all(torch.equal(tried[key], plain[key]) for key in plain)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (STUDENT, "127.0.0.1 cannot be reached"),
        ("cifar:resnet8", "none were published"),
    ],
)
def test_pretrained_weights_that_cannot_be_had_are_an_error(nothing_published: Path, name: str, reason: str) -> None:
    expected = f"{name}: pretrained weights cannot be had: {reason}"
    with pytest.raises(UserError, match=expected):
        create_model(name, num_classes=3, weights="pretrained")


def test_the_hub_is_asked_again_after_a_failure(nothing_published: Path) -> None:
    create_model(STUDENT, num_classes=3)
    assert constants.HF_HUB_OFFLINE is False


def test_cached_pretrained_weights_are_found_without_a_network(nothing_published: Path) -> None:
    published = timm.create_model("mobilenetv3_small_050").state_dict()
    repo = nothing_published / "models--timm--mobilenetv3_small_050.lamb_in1k"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("abc")
    (repo / "snapshots/abc").mkdir(parents=True)
    save_file(published, repo / "snapshots/abc/model.safetensors")
    network = create_model(STUDENT, num_classes=3)
    assert network.starts_from == "pretrained weights"
    assert torch.equal(network.module.conv_stem.weight, published["conv_stem.weight"])
    assert network.module.get_classifier().out_features == 3


def test_cached_torchvision_weights_keep_all_but_the_classifier(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    published = torchvision.models.mobilenet_v3_small().state_dict()
    url = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT.url
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(published, tmp_path / "hub/checkpoints" / url.rpartition("/")[2])
    network = create_model("torchvision:mobilenet_v3_small", num_classes=3)
    assert network.starts_from == "pretrained weights"
    assert torch.equal(network.module.classifier[0].weight, published["classifier.0.weight"])
    assert isinstance(network.module.classifier[3], nn.Linear)
    assert network.module.classifier[3].out_features == 3
