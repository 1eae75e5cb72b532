"""The paired bootstrap of a difference in mIoU, which is no mean over images: from counts of pixels by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis.arrays import ArrayLike, as_array
from understudy.analysis.intervals import Interval
from understudy.utils.errors import UserError

__all__ = ["paired_iou_bootstrap"]

_AT_ONCE = 250  # resamples: their counts are held together


def paired_iou_bootstrap(
    counts_a: ArrayLike,
    counts_b: ArrayLike,
    *,
    absent: str = "left_out",
    resamples: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mIoU of a minus that of b, in percentage points, resampling images and seeds together.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13. Each resample draws N images and S seeds
    with replacement, alike for a and b, adds up the pixels of the images under each seed, and takes the mean over
    the seeds of the mIoU.

    Args:
        counts_a: (S, N, C, 3) pixels of a by seed, image and class: rightly predicted, predicted, labelled.
        counts_b: likewise of b, the same images and seeds in the same order.
        absent: "left_out": a class of which there is no pixel in a resample is left out; "zero": it counts 0.
        resamples: how many bootstrap samples.
        level: share of them inside the interval, between 0 and 1.
        seed: of the resampling.

    Raises:
        UserError: shapes that differ or are not (S, N, C, 3) with at least one of each.
    """
    a, b = as_array(counts_a), as_array(counts_b)
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3 or 0 in a.shape:
        raise UserError(
            f"an interval of mIoU needs two tables (seeds, images, classes, 3) of one shape, but got {a.shape} and "
            f"{b.shape}; compare rows that were evaluated on the same images under the same seeds"
        )
    num_seeds, num_images = a.shape[:2]
    generator = np.random.default_rng(seed)
    points = []
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        images = generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=size).astype(np.float64)
        seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size) / num_seeds  # (R, S)
        by_seed = _mious(images, a, absent) - _mious(images, b, absent)  # (R, S)
        points.append((by_seed * seeds).sum(axis=1))
    low, high = np.quantile(np.concatenate(points), [(1 - level) / 2, (1 + level) / 2])
    once = np.ones((1, num_images))
    difference = float((_mious(once, a, absent) - _mious(once, b, absent)).mean())
    return Interval(difference, float(low), float(high), num_images, num_seeds)


def _mious(weights: npt.NDArray[np.float64], counts: npt.NDArray[Any], absent: str) -> npt.NDArray[np.float64]:
    """(R, S) mIoU in percent of (S, N, C, 3) counts, each image as often as its weight in (R, N)."""
    num_seeds, num_images, num_classes, _ = counts.shape
    flat = np.moveaxis(counts, 1, 0).reshape(num_images, -1).astype(np.float64)
    totals = (weights @ flat).reshape(len(weights), num_seeds, num_classes, 3)
    right, said, true = np.moveaxis(totals, -1, 0)
    union = said + true - right
    ious = np.divide(right, union, out=np.zeros_like(right), where=union > 0)
    there = np.full(union.shape[:2], num_classes) if absent == "zero" else np.maximum((union > 0).sum(axis=-1), 1)
    return np.asarray(100 * ious.sum(axis=-1) / there)
