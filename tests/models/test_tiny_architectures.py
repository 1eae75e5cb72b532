"""The networks of the papers' Tiny-ImageNet and ImageNet tables, against the numbers of the field's own code."""

import json
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from understudy.core.taps import TappedModel, check_taps
from understudy.models import count_macs, count_parameters, create_model
from understudy.utils.errors import UserError

GOLDEN = os.environ.get("UNDERSTUDY_GOLDEN", str(Path(__file__).parents[2] / "../shared/golden"))
FILES = [Path(folder) / "architectures.json" for folder in GOLDEN.split(os.pathsep)]
ARCHITECTURES = next((file for file in FILES if file.is_file()), FILES[0])

# What the field calls it, and what it is here: (name, further arguments, taps that give its features).
NETWORKS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "tiny_imagenet/MobileNetV2": ("cifar:mobilenetv2_tiny", {}, ["stages"]),
    "tiny_imagenet/ResNet18": ("cifar:resnet18", {}, ["stages"]),
    "tiny_imagenet/ShuffleV2_at_32": ("cifar:shufflenetv2", {}, ["stages"]),
    "tiny_imagenet/ShuffleV2": ("cifar:shufflenetv2", {}, ["stages"]),
    "imagenet/ResNet18": ("timm:resnet18", {}, ["stages"]),
    "imagenet/ResNet34": ("timm:resnet34", {}, ["stages"]),
    "imagenet/ResNet50": ("timm:resnet50", {}, ["stages"]),
    # timm's has ReLU6 where the field's has ReLU, and one stage more in front.
    "imagenet/MobileNetV1": ("timm:mobilenetv1_100", {"act_layer": "relu"}, [f"stages.{i}" for i in range(1, 5)]),
}
RUNNING = [name for name in NETWORKS if name != "tiny_imagenet/ShuffleV2"]  # the field's own fails at 64x64

needs_golden = pytest.mark.skipif(
    not ARCHITECTURES.is_file(), reason=f"no architectures.json in {GOLDEN} (UNDERSTUDY_GOLDEN)"
)


@cache
def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ARCHITECTURES.read_text())["models"][name]
    return found


def network(name: str) -> nn.Module:
    here, kwargs, _ = NETWORKS[name]
    num_classes = 1000 if name.startswith("imagenet/") else 200
    return create_model(here, num_classes=num_classes, weights="none", kwargs=kwargs).module.eval()


@needs_golden
def test_every_network_of_the_tables_is_here() -> None:
    names = json.loads(ARCHITECTURES.read_text())["models"]
    assert {name for name in names if not name.startswith("cifar/")} == set(NETWORKS)


@needs_golden
@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_are_those_of_the_field_in_number_and_size(name: str) -> None:
    module = network(name)
    assert count_parameters(module) == expected(name)["num_parameters"]
    assert len(list(module.parameters())) == expected(name)["num_parameter_tensors"]
    assert sum(buffer.numel() for buffer in module.buffers()) == expected(name)["num_buffer_elements"]
    shapes = Counter(tuple(tensor.shape) for tensor in module.state_dict().values())
    assert shapes == {tuple(shape): count for shape, count in expected(name)["state_dict_shapes_sorted_multiset"]}


@needs_golden
@pytest.mark.parametrize("name", RUNNING)
def test_stages_logits_and_multiply_accumulates_are_those_of_the_field(name: str) -> None:
    module, wanted = network(name), expected(name)
    tapped = TappedModel(module, [*NETWORKS[name][2], "embedding"])
    with torch.no_grad():
        logits, features = tapped(torch.rand(wanted["input_shape"]))
    stages = [feature for tap, feature in features.items() if tap.startswith("stages.")]
    assert list(logits.shape) == wanted["output_shape"]
    assert [list(stage.shape) for stage in stages] == wanted["feats"]
    assert [bool((stage >= 0).all()) for stage in stages] == wanted["feats_nonnegative"]
    assert list(features["embedding"].shape) == wanted["pooled_feat"][:2]
    assert count_macs(module, wanted["input_shape"][-1]) == wanted["macs_per_image"]


@needs_golden
def test_the_tiny_mobilenet_has_its_tensors_in_the_fields_order() -> None:
    shapes = [list(tensor.shape) for tensor in network("tiny_imagenet/MobileNetV2").state_dict().values()]
    assert shapes == expected("tiny_imagenet/MobileNetV2")["state_dict_shapes_in_order"]


def test_the_tiny_shufflenet_takes_the_64_pixels_at_which_the_fields_fails() -> None:
    assert network("tiny_imagenet/ShuffleV2")(torch.rand(1, 3, 64, 64)).shape == (1, 200)


def test_the_tiny_mobilenet_has_the_names_of_published_checkpoints() -> None:
    keys = set(timm.create_model("cifar_mobilenetv2_tiny").state_dict())
    assert {"pre.0.weight", "stage1.residual.0.bias", "stage4.3.residual.7.running_var", "conv2.bias"} <= keys


def test_an_inverted_residual_adds_its_input_only_where_both_are_alike() -> None:
    first, second, _ = timm.create_model("cifar_mobilenetv2_tiny").stage3.eval()
    maps = torch.rand(1, 24, 4, 4)
    assert torch.equal(first(maps), first.residual(maps))
    halved = torch.rand(1, 32, 2, 2)
    assert torch.equal(second(halved), second.residual(halved) + halved)


def test_linear_bottlenecks_offer_no_preactivations() -> None:
    with pytest.raises(UserError, match="does not say where its preact_stages are"):
        check_taps(timm.create_model("cifar_mobilenetv2_tiny"), ["preact_stages"], name="the student")


@pytest.mark.parametrize("size", [8, 32])
def test_the_tiny_mobilenet_takes_other_image_sizes(size: int) -> None:
    assert timm.create_model("cifar_mobilenetv2_tiny").eval()(torch.rand(1, 3, size, size)).shape == (1, 200)


def test_the_tiny_mobilenet_can_be_made_narrower() -> None:
    made = create_model("cifar:mobilenetv2_tiny", num_classes=5, weights="none", kwargs={"width": 0.25}).module
    assert [row["num_chs"] for row in made.feature_info] == [8, 6, 8, 16, 320]
    assert made.eval()(torch.rand(2, 3, 16, 16)).shape == (2, 5)


def test_timm_builds_the_tiny_mobilenet_as_a_feature_extractor_too() -> None:
    maps = timm.create_model("cifar_mobilenetv2_tiny", features_only=True).eval()(torch.rand(1, 3, 64, 64))
    assert [tuple(stage.shape[1:]) for stage in maps] == [
        (32, 66, 66), (24, 33, 33), (32, 17, 17), (64, 9, 9), (1280, 9, 9),
    ]  # fmt: skip


def test_the_tiny_mobilenet_gets_a_fresh_classifier_of_the_size_asked_for() -> None:
    module = timm.create_model("cifar_mobilenetv2_tiny").eval()
    module.reset_classifier(3)
    assert module.get_classifier().out_channels == 3
    assert module(torch.rand(1, 3, 16, 16)).shape == (1, 3)
    module.reset_classifier(0)
    assert module(torch.rand(1, 3, 16, 16)).shape == (1, 1280)
