"""The residual networks for small images, against the numbers of the field's own code."""

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

from understudy.models import count_macs, count_parameters, create_model
from understudy.taps import TappedModel

GOLDEN = Path(os.environ.get("UNDERSTUDY_GOLDEN", Path(__file__).parents[2] / "../shared/golden"))
ARCHITECTURES = GOLDEN / "architectures.json"
NAMES = ["resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet8x4", "resnet32x4"]

needs_golden = pytest.mark.skipif(
    not ARCHITECTURES.is_file(), reason=f"no architectures.json in {GOLDEN} (UNDERSTUDY_GOLDEN)"
)


@cache
def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ARCHITECTURES.read_text())["models"][f"cifar/{name}"]
    return found


def network(name: str) -> nn.Module:
    return create_model(f"cifar:{name}", num_classes=100, weights="none").module.eval()


@needs_golden
@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_those_of_the_field_in_number_size_and_order(name: str) -> None:
    module = network(name)
    assert count_parameters(module) == expected(name)["num_parameters"]
    assert sum(buffer.numel() for buffer in module.buffers()) == expected(name)["num_buffer_elements"]
    shapes = [list(tensor.shape) for tensor in module.state_dict().values()]
    assert shapes == expected(name)["state_dict_shapes_in_order"]
    multiset = {tuple(shape): count for shape, count in expected(name)["state_dict_shapes_sorted_multiset"]}
    assert Counter(map(tuple, shapes)) == multiset


@needs_golden
@pytest.mark.parametrize("name", NAMES)
def test_stages_and_multiply_accumulates_are_those_of_the_field(name: str) -> None:
    module = network(name)
    tapped = TappedModel(module, ["stages", "preact_stages", "embedding"])
    with torch.no_grad():
        logits, features = tapped(torch.rand(expected(name)["input_shape"]))
    assert list(logits.shape) == expected(name)["output_shape"]
    assert [list(features[f"stages.{i}"].shape) for i in range(4)] == expected(name)["feats"]
    assert [list(features[f"preact_stages.{i}"].shape) for i in range(4)] == expected(name)["preact_feats"]
    assert list(features["embedding"].shape) == expected(name)["pooled_feat"]
    assert [bool((features[f"stages.{i}"] >= 0).all()) for i in range(4)] == expected(name)["feats_nonnegative"]
    assert [row["num_chs"] for row in module.feature_info] == expected(name)["stage_channels"]
    assert count_macs(module, 32) == expected(name)["macs_per_image"]


def test_a_stage_is_the_rectified_preactivation_of_that_stage() -> None:
    tapped = TappedModel(network("resnet14"), ["stages", "preact_stages"])
    _, features = tapped(torch.rand(2, 3, 16, 16))
    for i in range(4):
        before = features[f"preact_stages.{i}"]
        assert (before < 0).any()
        assert torch.equal(features[f"stages.{i}"], before.relu())


def test_names_are_those_of_published_checkpoints() -> None:
    keys = network("resnet8").state_dict()
    assert {"conv1.weight", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight", "fc.bias"} <= set(keys)


def test_any_image_size_works() -> None:
    assert network("resnet8")(torch.rand(2, 3, 8, 8)).shape == (2, 100)


def test_a_quarter_of_the_width_has_a_quarter_of_the_channels() -> None:
    made = create_model("cifar:resnet8", num_classes=10, weights="none", kwargs={"width": 0.25})
    assert [row["num_chs"] for row in made.module.feature_info] == [4, 4, 8, 16]
    assert made.module(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_timm_builds_them_as_feature_extractors_too() -> None:
    maps = timm.create_model("cifar_resnet8", features_only=True)(torch.rand(1, 3, 32, 32))
    assert [tuple(stage.shape[1:]) for stage in maps] == [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_a_fresh_classifier_has_the_number_of_classes_asked_for() -> None:
    module = timm.create_model("cifar_resnet8")
    module.reset_classifier(3)
    assert module.get_classifier().out_features == 3
    assert module(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    module.reset_classifier(0)
    assert module(torch.rand(1, 3, 32, 32)).shape == (1, 64)
