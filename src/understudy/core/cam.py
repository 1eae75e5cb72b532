"""The class activation map: what a classifier says at every place of the map whose mean it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.classifier import classifier_name, is_candidate
from understudy.core.feature_layout import as_map, only_map
from understudy.core.passes import left_as_it_was
from understudy.core.stages import gives_channels_last
from understudy.core.tap_hooks import Catcher, place
from understudy.utils.errors import UserError

__all__ = ["CAM", "averaged_map", "class_activations"]

CAM = "cam"  # the tap
_MOST_APART = 0.01  # of the largest entry: rounding of half types; another pooling or a norm in between is near 1


def averaged_map(module: nn.Module, prepared: Tensor, *, name: str) -> tuple[str, str]:
    """Paths of the module whose map the classifier takes the mean of, and of the classifier.

    Found in a pass on noise: of all outputs whose mean over their positions is what enters the classifier, the one with
    the most positions, and of several the last. What the network writes into later is none of them.

    Args:
        module: any network; nothing of it changes.
        prepared: (B,3,H,W) images as it takes them; only their shape, device and dtype matter.
        name: what error messages call it.

    Raises:
        UserError: there is no such map.
    """
    layers = [path for path, layer in module.named_modules() if path and is_candidate(layer)]
    output, caught = _watched_on_noise(module, prepared, [f"{path}:input" for path in layers])
    seen = {path: caught[path] for path in caught if path in layers and f"{path}:input" in caught}
    classifier = classifier_name(module, seen=seen, logits=output)
    taken = None if classifier is None else only_map(caught.get(f"{classifier}:input"))
    found = [] if taken is None else _maps_of_mean(taken.flatten(1), module, caught, tuple(prepared.shape[2:]))
    if classifier is None or not found:
        raise UserError(
            f"{name} has no 'cam' (class activation map): what its classifier takes is no map's mean (but a class "
            "token, what a norm or a wider layer makes of the mean, or a map of a single place); take a network that "
            "averages its last map, such as a ResNet, larger images, or a method on stages or logits"
        )
    return max(found)[2], classifier


def _watched_on_noise(module: nn.Module, prepared: Tensor, inputs: list[str]) -> tuple[Any, dict[str, Any]]:
    """Output of a pass, and what it showed at every module and at `inputs`, but for what was written into later."""
    catcher = Catcher()
    noise = torch.randn(prepared.shape, generator=torch.Generator().manual_seed(0)).to(prepared)
    with left_as_it_was(module):
        handles = place(module, [*(path for path, _ in module.named_modules() if path), *inputs], catcher)
        try:
            output = module(noise)
        finally:
            caught, moved = catcher.released()
            for handle in handles:
                handle.remove()
    return output, {path: value for path, value in caught.items() if path not in moved}


def _maps_of_mean(
    taken: Tensor, module: nn.Module, caught: Mapping[str, Any], sides: tuple[int, ...]
) -> list[tuple[int, int, str]]:
    """Positions, place in the order and path of each map whose mean is `taken` (B,D)."""
    found = []
    for number, (path, value) in enumerate(caught.items()):
        one = None if path.endswith(":input") else only_map(value)
        if one is None or one.ndim not in (3, 4):
            continue
        is_first = not gives_channels_last(module, path)
        maps = as_map(one, module, is_channels_first=is_first, image_sides=(sides[0], sides[1]))
        if maps is not None and maps.ndim == 4 and _is_mean_of(taken, maps):
            found.append((maps.shape[2] * maps.shape[3], number, path))
    return found


def class_activations(maps: Tensor, classifier: nn.Module) -> Tensor:
    """(B,D,H,W) sent through the weights of a linear layer, or 1x1 convolution, as they are now: (B,C,H,W).

    Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016: without the bias, so that the mean
    over places is the logits less that.
    """
    weight: Tensor = classifier.weight.flatten(1)[:, :, None, None]  # type: ignore[operator]
    return F.conv2d(maps, weight.to(maps.dtype))


def _is_mean_of(taken: Tensor, maps: Tensor) -> bool:
    if taken.shape != maps.shape[:2]:
        return False
    apart = (maps.mean(dim=(2, 3)) - taken).abs().max()
    return bool(apart <= _MOST_APART * taken.abs().max())
