"""Class activation maps of networks of any kind: what the classifier says at each place, found in a pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from understudy.core.tap_shapes import shapes_of
from understudy.core.taps import TappedModel
from understudy.models.create import create_model
from understudy.utils.errors import UserError

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cifar:resnet8": lambda: create_model("cifar:resnet8", num_classes=5, weights="none").module,
    "cifar:vgg8": lambda: create_model("cifar:vgg8", num_classes=5, weights="none").module,
    "cifar:mobilenetv2": lambda: create_model("cifar:mobilenetv2", num_classes=5, weights="none").module,
    "cifar:shufflenetv1": lambda: create_model("cifar:shufflenetv1", num_classes=5, weights="none").module,
    "cifar:wrn_16_1": lambda: create_model("cifar:wrn_16_1", num_classes=5, weights="none").module,
    "timm resnet": lambda: timm.create_model("resnet10t", num_classes=5),
    "torchvision resnet": lambda: torchvision.models.resnet18(num_classes=5),
    "Swin": lambda: SwinTransformer(64, 4, num_classes=5, embed_dim=12, depths=(1, 1, 1), window_size=4),
    "mean of patches": lambda: VisionTransformer(
        64, 16, num_classes=5, embed_dim=12, depth=1, num_heads=2, global_pool="avg", fc_norm=False
    ),
}


def tapped(kind: str) -> tuple[TappedModel, Tensor]:
    torch.manual_seed(0)
    return TappedModel(NETWORKS[kind](), ["cam"]), torch.rand(2, 3, 64, 64)


@pytest.mark.parametrize("kind", NETWORKS)
def test_maps_are_what_the_classifier_says_at_each_place(kind: str) -> None:
    model, images = tapped(kind)
    model.dry_forward(torch.zeros_like(images))  # blank images, as a run's dry pass has them
    model.eval()
    logits, features = model(images)
    maps = features["cam"]
    assert maps.ndim == 4
    assert maps.shape[1] == 5
    bias = model.module.get_submodule(model.classifier or "").bias
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + bias, logits, rtol=1e-4, atol=1e-5)


def test_their_gradient_reaches_the_classifier_of_this_moment() -> None:
    model, images = tapped("cifar:resnet8")
    shape = shapes_of(model, images)["cam"]
    assert (shape.channels, shape.height, shape.width) == (5, 16, 16)
    classifier = model.module.get_submodule(model.classifier or "")
    before = model(images)[1]["cam"]
    before.square().sum().backward()
    assert classifier.weight.grad is not None
    assert classifier.weight.grad.any()
    assert model.module.conv1.weight.grad.any()
    with torch.no_grad():
        classifier.weight.mul_(2)
    model.eval()
    found = model(images)[1]["cam"]
    again = model.retapped(["stages", "cam"]).eval()(images)[1]
    assert torch.equal(again["cam"], found)
    with torch.no_grad():
        classifier.weight.div_(2)
    torch.testing.assert_close(model(images)[1]["cam"], found / 2)


@pytest.mark.parametrize(
    "network",
    [
        lambda: VisionTransformer(64, 16, num_classes=5, embed_dim=12, depth=1, num_heads=2),
        lambda: timm.create_model("convnext_atto", num_classes=5, dims=(4, 4, 4, 8), depths=(1, 1, 1, 1)),
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(5, 5)),
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
    ids=["class token", "norm behind the mean", "largest instead of mean", "no classifier"],
)
def test_a_network_that_classifies_no_mean_of_a_map_is_refused(network: Callable[[], nn.Module]) -> None:
    with pytest.raises(
        UserError, match=r"has no 'cam' .class activation map.: what its classifier takes is no map's mean"
    ):
        TappedModel(network(), ["cam"]).dry_forward(torch.rand(2, 3, 64, 64))


def test_a_module_of_that_name_is_tapped_as_it_is() -> None:
    network = nn.Sequential()
    network.add_module("cam", nn.Conv2d(3, 4, 1))
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(TappedModel(network, ["cam"])(images)[1]["cam"], network(images))
