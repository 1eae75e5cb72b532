"""The class activation map of a network: found by a pass, right in value, with a gradient, or refused in words."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from understudy.core.tap_shapes import shapes_of
from understudy.core.taps import TappedModel
from understudy.models import create_model
from understudy.utils.errors import UserError

SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


def network(name: str, **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    module = create_model(name, num_classes=5, weights="none", kwargs=kwargs).module
    for part in module.modules():  # so that a norm in between would be seen
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, mean=1.0)
            nn.init.normal_(part.bias)
    return module.eval()


@pytest.mark.parametrize(
    ("name", "size", "kwargs"),
    [
        ("cifar:resnet8", 32, {"width": 0.25}),
        ("cifar:wrn_16_1", 32, {"width": 0.25}),  # whose last stage is followed by a norm and a ReLU
        ("cifar:mobilenetv2", 64, {"width": 0.25}),  # whose last stage is followed by a wider convolution
        ("timm:resnet10t", 64, {}),
        ("timm:swin_tiny_patch4_window7_224", 64, SWIN),  # channels last
    ],
)
def test_its_mean_over_places_are_the_logits(name: str, size: int, kwargs: dict[str, Any]) -> None:
    model = TappedModel(network(name, **kwargs), ["cam"])
    images = torch.rand(2, 3, size, size)
    shape = shapes_of(model, torch.zeros_like(images))["cam"]  # found on blank images
    logits, features = model(images)
    cam = features["cam"]
    assert cam.ndim == 4
    assert cam.shape[1:] == (5, shape.height, shape.width)
    torch.testing.assert_close(cam.mean(dim=(2, 3)), logits, rtol=1e-4, atol=1e-5)
    spread = cam.flatten(2).std(dim=2)
    assert spread.min() > 0  # a place does not say what the whole does


def test_the_gradient_reaches_the_classifier_that_is_trained() -> None:
    module = network("cifar:resnet8", width=0.25)
    model = TappedModel(module, ["cam"])
    model.dry_forward(torch.zeros(2, 3, 32, 32))
    _, features = model.train()(torch.rand(4, 3, 32, 32))
    features["cam"].square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in module.parameters())


def test_a_first_pass_in_training_finds_it_too_and_leaves_no_hooks() -> None:
    module = network("cifar:resnet8", width=0.25).train()
    _, features = TappedModel(module, ["cam", "stages", "embedding"])(torch.rand(4, 3, 32, 32))
    assert features["cam"].shape == (4, 5, 8, 8)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_other_taps_and_the_classifier_are_what_they_are_without_it() -> None:
    module, images = network("cifar:wrn_16_1", width=0.25), torch.rand(2, 3, 32, 32)
    alone, beside = (
        TappedModel(module, ["stages", "embedding"]),
        TappedModel(module, ["stages", "embedding", "cam"]),
    )
    expected, found = alone(images), beside(images)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    assert list(found[1]) == [*expected[1], "cam"]
    for tap, feature in expected[1].items():
        torch.testing.assert_close(found[1][tap], feature, rtol=0, atol=0)
    assert beside.classifier == alone.classifier


def test_the_same_network_under_other_taps_knows_its_place() -> None:
    model = TappedModel(network("cifar:resnet8", width=0.25), ["cam"])
    model.dry_forward(torch.zeros(2, 3, 32, 32))
    again = model.retapped(["cam"])
    assert again._cam_place == model._cam_place == ("global_pool:input", False)


class Doubled(nn.Module):
    """A network whose pooled vector is changed before its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(2 * self.conv(images).mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize(
    "module",
    [
        Doubled(),
        timm.create_model("vit_tiny_patch16_224", num_classes=5, **VIT),  # a class token
        timm.create_model("convnext_atto", num_classes=5, dims=(8, 8, 8, 8), depths=(1, 1, 1, 1)),  # a norm in between
    ],
    ids=["doubled", "vit", "convnext"],
)
def test_a_network_whose_classifier_is_given_something_else_is_refused(module: nn.Module) -> None:
    model = TappedModel(module, ["cam"], name="the teacher")
    with pytest.raises(UserError, match="the teacher has no 'cam': its classifier is not a layer that is given"):
        model.dry_forward(torch.zeros(2, 3, 32, 32))


def test_a_map_of_one_place_and_a_network_without_a_classifier_have_none() -> None:
    with pytest.raises(UserError, match="a map of one place"):
        TappedModel(network("cifar:resnet8", width=0.25), ["cam"]).dry_forward(torch.zeros(2, 3, 4, 4))
    with pytest.raises(UserError, match="has no 'cam'"):
        TappedModel(nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten()), ["cam"])
