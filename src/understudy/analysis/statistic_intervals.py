"""The paired bootstrap of a score that is no mean over images, such as average precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.analysis.intervals import Interval
from understudy.utils.errors import UserError

__all__ = ["Resampled", "paired_statistic_bootstrap", "resampled"]

_AT_ONCE = 100  # resamples: their weights are handed over together

Statistic = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Resampled:
    """A score of one row under each of its seeds, of the images and of resamples of them."""

    once: npt.NDArray[np.float64]  # (S,) each image counted once
    points: npt.NDArray[np.float64]  # (R,S) of resamples, which are alike for all rows on as many images
    num_images: int


def resampled(statistic: Statistic, num_images: int, *, resamples: int = 1_000, seed: int = 0) -> list[Resampled]:
    """Scores of resampled images.

    Args:
        statistic: (R,N) how often each image counts to (R,S,M) M scores under S seeds.
        num_images: N.
        resamples: R.
        seed: of the drawing: the same N, R and seed draw the same images.

    Returns:
        One for each of the M scores.
    """
    generator = np.random.default_rng(seed)
    once = statistic(np.ones((1, num_images), dtype=np.int64))[0]  # (S,M)
    chances = np.full(num_images, 1 / num_images)
    points = []
    for start in range(0, resamples, _AT_ONCE):
        points.append(statistic(generator.multinomial(num_images, chances, size=min(_AT_ONCE, resamples - start))))
    joined = np.concatenate(points)
    return [Resampled(once[:, place], joined[..., place], num_images) for place in range(once.shape[1])]


def paired_statistic_bootstrap(a: Resampled, b: Resampled, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile interval of the score of a minus that of b, resampling images and seeds together.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13. Each resample has N images and S seeds drawn
    with replacement, alike for a and b, and takes the mean over the seeds of the scores.

    Args:
        a: of one row.
        b: of another, on the same images and under the same seeds in the same order, with the same draws.
        level: share of the resamples inside the interval.
        seed: of drawing the seeds.

    Raises:
        UserError: other numbers of images, seeds or resamples.
    """
    if a.points.shape != b.points.shape or a.num_images != b.num_images:
        raise UserError(
            f"a paired bootstrap needs two rows on the same images under the same seeds, but got {a.num_images} images "
            f"and {a.points.shape[1]} seeds, and {b.num_images} and {b.points.shape[1]}"
        )
    resamples, num_seeds = a.points.shape
    generator = np.random.default_rng([seed, num_seeds])
    seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples) / num_seeds  # (R,S)
    points = ((a.points - b.points) * seeds).sum(axis=1)
    low, high = np.quantile(points, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float((a.once - b.once).mean()), float(low), float(high), a.num_images, num_seeds)
