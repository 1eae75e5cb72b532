"""Random erasing on whole batches: a rectangle of noise in some images (Zhong et al., AAAI 2020), as timm draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.image_size import ImageSize, height_and_width
from understudy.data.augment.by_rows import changed, normal, uniform
from understudy.data.sources.base import as_unit
from understudy.utils.hashing import hashed_tensor

__all__ = ["NUM_ERASED", "drawn_rectangles", "erased"]

AREA, RATIO, TRIES = (0.02, 1 / 3), (0.3, 1 / 0.3), 10  # timm's RandomErasing
NUM_ERASED = 5  # numbers of a row


def drawn_rectangles(key: Tensor, probability: float, size: ImageSize) -> Tensor:
    """(5,...) int64 on the CPU: top, left, height (0: nothing is erased), width, and what the noise is drawn from.

    Args:
        key: (...) int64, decides everything.
        probability: of a rectangle.
        size: of the student's images.
    """
    height, width = height_and_width(size)
    each, tries = key[..., None], torch.arange(TRIES)
    area = height * width * uniform(each, "erase", "area", tries, low=AREA[0], high=AREA[1])
    low, high = map(math.log, RATIO)
    ratio = uniform(each, "erase", "ratio", tries, low=low, high=high).exp()
    heights, widths = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (heights < height) & (widths < width)
    first = fits.long().argmax(-1, keepdim=True)
    tall, wide = heights.gather(-1, first)[..., 0], widths.gather(-1, first)[..., 0]
    is_erased = fits.any(-1) & (uniform(key, "erase") < probability)
    top = hashed_tensor(key, "erase", "top") % (height - tall + 1).clamp_min(1)
    left = hashed_tensor(key, "erase", "left") % (width - wide + 1).clamp_min(1)
    noise = hashed_tensor(key, "erase", "noise")
    return torch.stack([top, left, torch.where(is_erased, tall, 0), wide, noise])


def erased(
    pictures: Sequence[Tensor],
    numbers: Tensor,
    mode: Literal["pixel", "rand", "const"],
    mean: Tensor,
    std: Tensor,
    *,
    in_groups: bool,
) -> list[Tensor]:
    """The same images at one or two sizes as float32 in [0,1], but for the noise, which leaves it; see `with_parts`.

    Args:
        pictures: (B,D,H,W) of uint8 or in [0,1] each, the student's first; others show its noise, enlarged.
        numbers: (5,B) of `drawn_rectangles`.
        mode: noise for each pixel, one colour of noise, or the mean colour.
        mean: (D,1,1) of the student's normalisation.
        std: likewise.
        in_groups: see `changed`.
    """
    height, width = pictures[0].shape[-2:]

    def change(images: Tensor, *drawn: Tensor) -> Tensor:
        noise, is_erased = _canvas(drawn, images.shape[1], (height, width), mode)
        noise = noise * std + mean
        if images.shape[-2:] != (height, width):
            noise = F.interpolate(noise.expand(-1, -1, height, width), size=images.shape[-2:], mode="nearest")
            is_erased = F.interpolate(is_erased.float(), size=images.shape[-2:], mode="nearest") > 0
        return torch.where(is_erased, noise, images)

    return [changed(as_unit(images), numbers[2] > 0, change, *numbers, in_groups=in_groups) for images in pictures]


def _canvas(drawn: Sequence[Tensor], channels: int, sides: tuple[int, int], mode: str) -> tuple[Tensor, Tensor]:
    """Noise of N(0,1), (B,D,H,W) or smaller where it is alike, and (B,1,H,W) whether a pixel is erased."""
    top, left, tall, wide, key = (part.view(-1, 1, 1, 1) for part in drawn)
    height, width = sides
    y, x = torch.arange(height, device=key.device).view(-1, 1), torch.arange(width, device=key.device)
    is_erased = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    channel = torch.arange(channels, device=key.device).view(-1, 1, 1)
    if mode == "const":
        return key.new_zeros((len(key), channels, 1, 1), dtype=torch.float32), is_erased
    places = channel if mode == "rand" else channel + channels * (width * y + x)
    return normal(hashed_tensor(key, places)), is_erased
