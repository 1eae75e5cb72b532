"""Several looks at an image, larger, smaller and mirrored, whose probabilities are averaged: how papers evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.batch import Batch
from understudy.tasks.base import Predictor

__all__ = ["averaged_logits"]


def averaged_logits(
    predict: Predictor, batch: Batch, logits_in: Callable[[Any], Tensor], *, scales: Sequence[float], is_mirrored: bool
) -> Tensor:
    """The logits of one look, or the logarithm of the mean probabilities of several, on the grid of the largest.

    Args:
        predict: a segmenter.
        batch: whose images are looked at.
        logits_in: finds the (B,C,h,w) logits in what the segmenter gives.
        scales: factors of the images' sides; (1.0,) and no mirroring: one look.
        is_mirrored: whether each is looked at from left to right and from right to left.
    """
    if tuple(scales) == (1.0,) and not is_mirrored:
        return logits_in(predict(batch))
    height, width = batch.images.shape[2:]
    total: Tensor | None = None
    count = 0
    for scale in sorted(scales, reverse=True):
        size = [max(1, round(side * scale)) for side in (height, width)]
        images = batch.images
        if size != [height, width]:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
        for is_turned in (False, True) if is_mirrored else (False,):
            shown = images.flip(-1) if is_turned else images
            logits = logits_in(predict(replace(batch, images=shown)))
            probabilities = (logits.flip(-1) if is_turned else logits).softmax(dim=1)
            if total is not None and total.shape != probabilities.shape:
                probabilities = F.interpolate(probabilities, size=total.shape[2:], mode="bilinear", align_corners=False)
            total, count = probabilities if total is None else total + probabilities, count + 1
    assert total is not None, "there is a scale"
    return (total / count).clamp_min(torch.finfo(total.dtype).tiny).log()
