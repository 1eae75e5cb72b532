"""The class activation map: what a network's classifier says of every place of the map whose mean it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.precision import widest_dtype
from understudy.core.stages import gives_channels_last
from understudy.utils.errors import UserError

__all__ = ["CAM", "cam_place", "class_activations", "every_place", "no_cam", "noise_like"]

CAM = "cam"

_MOST_APART = 1e-3  # of the largest entry of the classifier's input: rounding, in half types, too


def class_activations(feature: Tensor, classifier: nn.Module) -> Tensor:
    """The classifier's logits at each place: (B,D,H,W), or (B,D) for one place, to (B,C,H,W).

    Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, with the bias. Their means over
    places are the network's logits, since the classifier is affine. Its weights take the gradient.
    """
    maps = feature[:, :, None, None] if feature.ndim == 2 else feature
    weight, bias = classifier.weight, classifier.bias
    assert isinstance(weight, Tensor)
    assert bias is None or isinstance(bias, Tensor)
    return F.conv2d(maps, weight.flatten(1)[:, :, None, None], bias)


def every_place(module: nn.Module) -> dict[str, str]:
    """Output and input of every part of a network, as places by their own names."""
    paths = [path for path, _ in module.named_modules() if path]
    return {place: place for path in paths for place in (path, f"{path}:input")}


def cam_place(module: nn.Module, seen: Mapping[str, Any], given: Any, moved: Iterable[str]) -> tuple[str, bool] | None:
    """Where the map is whose mean over its places the classifier is given, and whether its channels are last.

    The last such place of a pass, so that what happens to the map in between (a norm, an activation) is behind it.

    Args:
        module: the network.
        seen: what passed at the places of `every_place`, in the order of the pass.
        given: what the classifier was given, (B,D) or (B,D,1,1).
        moved: places into which the network wrote later.
    """
    if not isinstance(given, Tensor) or given.flatten(1).shape[1:] != given.shape[1:2]:
        return None
    vector, overwritten = given.flatten(1).to(widest_dtype(given.device)), set(moved)
    for place, value in reversed(list(seen.items())):
        if not isinstance(value, Tensor) or value.ndim != 4 or len(value) != len(vector) or place in overwritten:
            continue
        for is_channels_last in (False, True) if gives_channels_last(module, place) else (False,):
            if _has_mean(value, vector, (1, 2) if is_channels_last else (2, 3)):
                return place, is_channels_last
    return None


def _has_mean(value: Tensor, vector: Tensor, sides: tuple[int, int]) -> bool:
    if value.shape[sides[0]] * value.shape[sides[1]] == 1:
        return False
    mean = value.to(vector.dtype).mean(dim=sides)
    if mean.shape != vector.shape:
        return False
    largest = vector.abs().max()
    return bool(largest > 0) and bool((mean - vector).abs().max() <= _MOST_APART * largest)


def noise_like(images: Tensor) -> Tensor:
    """Images of the same shape that are the same every time: on blank ones too many places would be alike."""
    return torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images)


def no_cam(name: str) -> UserError:
    """What to say of a network that has none."""
    return UserError(
        f"{name} has no 'cam': its classifier is not a layer that is given the mean of a map, but something else "
        "(a class token, a mean that is normalised or widened behind the map, a map of one place); take a network that "
        "ends in such a mean (resnet, wrn, vgg, mobilenetv2, efficientnet, ...), or larger images"
    )
