"""The networks of the field's CIFAR tables, against the numbers of its own code."""

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

from understudy.core.taps import TappedModel
from understudy.models import count_macs, count_parameters, create_model

GOLDEN = os.environ.get("UNDERSTUDY_GOLDEN", str(Path(__file__).parents[2] / "../shared/golden"))
FILES = [Path(folder) / "architectures.json" for folder in GOLDEN.split(os.pathsep)]
ARCHITECTURES = next((file for file in FILES if file.is_file()), FILES[0])
NAMES = [
    *(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110, "8x4", "32x4", 18, 50)),
    *("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"),
    *(f"vgg{depth}" for depth in (8, 11, 13, 16, 19)),
    *("mobilenetv2", "shufflenetv1", "shufflenetv2"),
]
NAMED_OTHERWISE = {  # by the field
    "resnet18": "ResNet18",
    "resnet50": "ResNet50",
    "mobilenetv2": "MobileNetV2",
    "shufflenetv1": "ShuffleV1",
    "shufflenetv2": "ShuffleV2",
}

needs_golden = pytest.mark.skipif(
    not ARCHITECTURES.is_file(), reason=f"no architectures.json in {GOLDEN} (UNDERSTUDY_GOLDEN)"
)


@cache
def all_expected() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(ARCHITECTURES.read_text())["models"]
    return found


def expected(name: str) -> dict[str, Any]:
    return all_expected()[f"cifar/{NAMED_OTHERWISE.get(name, name)}"]


def network(name: str) -> nn.Module:
    return create_model(f"cifar:{name}", num_classes=100, weights="none").module.eval()


def shapes_of(module: nn.Module) -> list[list[int]]:
    return [list(tensor.shape) for tensor in module.state_dict().values()]


@needs_golden
def test_every_network_of_the_tables_is_here() -> None:
    there = {name.removeprefix("cifar/") for name in all_expected() if name.startswith("cifar/")}
    assert {NAMED_OTHERWISE.get(name, name) for name in NAMES} == there


@needs_golden
@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_those_of_the_field_in_number_size_and_order(name: str) -> None:
    module = network(name)
    assert count_parameters(module) == expected(name)["num_parameters"]
    assert len(list(module.parameters())) == expected(name)["num_parameter_tensors"]
    assert sum(buffer.numel() for buffer in module.buffers()) == expected(name)["num_buffer_elements"]
    assert len(list(module.buffers())) == expected(name)["num_buffer_tensors"]
    assert shapes_of(module) == expected(name)["state_dict_shapes_in_order"]
    multiset = {tuple(shape): count for shape, count in expected(name)["state_dict_shapes_sorted_multiset"]}
    assert Counter(map(tuple, shapes_of(module))) == multiset


@needs_golden
@pytest.mark.parametrize("name", NAMES)
def test_stages_and_multiply_accumulates_are_those_of_the_field(name: str) -> None:
    module, wanted = network(name), expected(name)
    assert count_macs(module, 32) == wanted["macs_per_image"]
    groups = ["stages", "preact_stages"] if wanted["preact_feats"] else ["stages"]
    with torch.no_grad():
        logits, features = TappedModel(module, [*groups, "embedding"])(torch.rand(wanted["input_shape"]))
    stages = [feature for tap, feature in features.items() if tap.startswith("stages.")]
    preactivations = [feature for tap, feature in features.items() if tap.startswith("preact_stages.")]
    assert list(logits.shape) == wanted["output_shape"]
    assert [list(stage.shape) for stage in stages] == wanted["feats"]
    assert [list(feature.shape) for feature in preactivations] == (wanted["preact_feats"] or [])
    assert [bool((stage >= 0).all()) for stage in stages] == wanted["feats_nonnegative"]
    assert list(features["embedding"].shape) == wanted["pooled_feat"]


@needs_golden
@pytest.mark.parametrize("name", NAMES)
def test_declared_channels_and_reductions_are_those_of_the_stages(name: str) -> None:
    rows = network(name).feature_info
    assert [[2, row["num_chs"], 32 // row["reduction"], 32 // row["reduction"]] for row in rows] == expected(name)[
        "feats"
    ]


@needs_golden
@pytest.mark.parametrize(
    "name", ["resnet20", "resnet18", "wrn_16_2", "vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2"]
)
def test_timm_builds_them_as_feature_extractors_too(name: str) -> None:
    with torch.no_grad():
        maps = timm.create_model(f"cifar_{name}", features_only=True).eval()(torch.rand(2, 3, 32, 32))
    assert [list(stage.shape) for stage in maps] == expected(name)["feats"]


@needs_golden
def test_resnet34_has_the_tensors_of_the_imagenet_one_but_for_stem_and_classifier() -> None:
    stem, *between, _, _ = shapes_of(network("resnet34"))
    of_imagenet = all_expected()["imagenet/ResNet34"]["state_dict_shapes_in_order"]
    assert stem == [64, 3, 3, 3]
    assert between == of_imagenet[1:-2]
    assert count_parameters(network("resnet34")) == 21_328_292
