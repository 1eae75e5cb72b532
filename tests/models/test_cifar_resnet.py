"""The residual networks for small images: where they are tapped, and how they are made smaller."""

import timm
import torch
from torch import nn

from understudy.core.taps import TappedModel
from understudy.models import create_model


def network(name: str) -> nn.Module:
    return create_model(f"cifar:{name}", num_classes=100, weights="none").module.eval()


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
