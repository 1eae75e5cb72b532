"""Several looks at an image: windows that slide over it, larger, smaller and mirrored ones: how papers evaluate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.image_size import ImageSize, height_and_width

__all__ = ["at_size", "averaged_logits", "classes_at_size", "slid_logits", "window_places"]

MOST_AT_ONCE = 2**26  # logits of pixels that are held where their classes alone are wanted: 256 MB
Look = Callable[[Tensor], Tensor]  # (B,3,H,W) images to (B,C,h,w) logits


def averaged_logits(look: Look, images: Tensor, *, scales: Sequence[float], is_mirrored: bool) -> Tensor:
    """The logits of one look, or the logarithm of the mean probabilities of several, on the grid of the largest.

    Args:
        look: a segmenter.
        images: (B,3,H,W).
        scales: factors of the images' sides; (1.0,) and no mirroring: one look.
        is_mirrored: whether each is looked at from left to right and from right to left.
    """
    if tuple(scales) == (1.0,) and not is_mirrored:
        return look(images)
    height, width = images.shape[2:]
    total: Tensor | None = None
    count = 0
    for scale in sorted(scales, reverse=True):
        size = [max(1, round(side * scale)) for side in (height, width)]
        scaled = images
        if size != [height, width]:
            scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
        for is_turned in (False, True) if is_mirrored else (False,):
            logits = look(scaled.flip(-1) if is_turned else scaled)
            probabilities = (logits.flip(-1) if is_turned else logits).softmax(dim=1)
            if total is not None and total.shape != probabilities.shape:
                probabilities = F.interpolate(probabilities, size=total.shape[2:], mode="bilinear", align_corners=False)
            total, count = probabilities if total is None else total + probabilities, count + 1
    assert total is not None, "there is a scale"
    return (total / count).clamp_min(torch.finfo(total.dtype).tiny).log()


def slid_logits(
    look: Look, images: Tensor, *, window: ImageSize, stride: ImageSize, align_corners: bool = False
) -> Tensor:
    """Logits at every pixel: windows slide over the image, and where they overlap their logits are averaged.

    As mmsegmentation's "slide": the last window of a row or column is moved back to end where the image does. Of an
    image that is smaller than the window, the whole is looked at.

    Args:
        look: a segmenter.
        images: (B,3,H,W).
        window: height and width of what is looked at, in pixels.
        stride: pixels between two windows.
        align_corners: how the logits of a window are enlarged to its pixels.

    Returns:
        (B,C,H,W).
    """
    sides = tuple(images.shape[2:])
    (height, width), steps = height_and_width(window), height_and_width(stride)
    total: Tensor | None = None
    counts = images.new_zeros(1, 1, *sides, dtype=torch.float32)
    for top in window_places(sides[0], height, steps[0]):
        for left in window_places(sides[1], width, steps[1]):
            here = (..., slice(top, min(top + height, sides[0])), slice(left, min(left + width, sides[1])))
            shown = images[here]
            logits = at_size(look(shown), shown.shape[2:], align_corners=align_corners)
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], *sides)
            total[here] += logits
            counts[here] += 1
    assert total is not None, "an image has a window"
    return total / counts.to(total.dtype)


def window_places(side: int, window: int, stride: int) -> Iterator[int]:
    """Where the windows along one side begin."""
    for place in range(max(side - window + stride - 1, 0) // stride + 1):
        yield max(min(place * stride, side - window), 0)


def at_size(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """(B,C,h,w) logits at another size, bilinearly; as they are where they have it."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=align_corners)


def classes_at_size(logits: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """(B,H,W) the likeliest class of every pixel of a size: `at_size(...).argmax(1)`, a few classes at a time.

    So a photograph of 50 million pixels and 100 classes takes 1 GB in place of 20.
    """
    at_once = max(1, MOST_AT_ONCE // (len(logits) * math.prod(size)))
    if at_once >= logits.shape[1]:
        return at_size(logits, size, align_corners=align_corners).argmax(dim=1)
    best, classes = at_size(logits[:, :at_once], size, align_corners=align_corners).max(dim=1)
    for first in range(at_once, logits.shape[1], at_once):
        values, places = at_size(logits[:, first : first + at_once], size, align_corners=align_corners).max(dim=1)
        classes = torch.where(values > best, places + first, classes)
        best = torch.maximum(values, best)
    return classes
