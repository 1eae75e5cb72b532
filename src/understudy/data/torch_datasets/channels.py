"""How many channels the images of a data set made in Python have, where its networks are to take them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from PIL import Image
from torch import nn

from understudy.data.sources.grey_range import spread
from understudy.data.torch_datasets.samples import DatasetSource
from understudy.utils.seeding import globally_seeded

__all__ = ["channels_for"]

_GREY_MODES = ("1", "L", "LA", "F")  # of PIL, beside those that begin with I


def channels_for(source: DatasetSource, networks: Sequence[nn.Module]) -> tuple[int, list[str]]:
    """The channels that the images go to the networks with, and a note where that was a choice.

    As many as the data set gives, if all networks take so many; grey images, which the networks do not take as they
    are, are repeated to three channels.

    Args:
        source: of the training images.
        networks: that are going to take them.
    """
    given = _given(source)
    if given is None or given[0] == 3:
        return 3, []
    channels, height, width = given
    if all(_takes(network, channels, height, width) for network in networks):
        words = "as one channel" if channels == 1 else f"with their {channels} channels"
        return channels, [f"images go to the networks {words}, as the data set has them"]
    if channels == 1:
        return 3, ["images are grey: their one channel is repeated to three"]
    return channels, []


def _given(source: DatasetSource) -> tuple[int, int, int] | None:
    """(channels, height, width) of the first samples that can be read; the largest number of channels among them."""
    found: list[tuple[int, int, int]] = []
    for i in spread(len(source), 4):
        with suppress(OSError), globally_seeded(i):
            image = source.stored(i)
            if isinstance(image, Image.Image):
                is_grey = image.mode in _GREY_MODES or image.mode.startswith("I")
                found.append((1 if is_grey else 3, image.height, image.width))
            else:
                found.append(_shape(source.as_tensor(image)))
    return max(found, default=None)


def _shape(image: torch.Tensor) -> tuple[int, int, int]:
    channels, height, width = image.shape
    return channels, height, width


def _takes(network: nn.Module, channels: int, height: int, width: int) -> bool:
    """Whether a copy of the network takes such images."""
    try:
        trial = copy.deepcopy(network).eval()
        like: Any = next(trial.parameters(), torch.empty(0))
        with torch.no_grad(), globally_seeded(0):
            trial(torch.zeros(2, channels, height, width, device=like.device, dtype=like.dtype))
    except Exception:  # whatever a network of somebody's own may raise at images that are not for it
        return False
    return True
