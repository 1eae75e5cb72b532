"""How sure a number is: mean and spread over seeds, and the paired bootstrap of a difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis.arrays import ArrayLike, as_array
from understudy.utils.errors import UserError

__all__ = ["Interval", "Summary", "paired_bootstrap", "summary"]

_COUNTS_AT_ONCE = 4_000_000  # int64 numbers held while resampling: 32 MB


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean and sample standard deviation (divisor n - 1) of n values; std is None where n is 1."""

    mean: float  # null where a seed came to no number
    std: float | None  # null for one seed
    n: int  # seeds


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference, in percentage points or the unit of what was scored, and the interval that the bootstrap gives."""

    difference: float
    low: float
    high: float
    num_images: int
    num_seeds: int

    @property
    def spans_zero(self) -> bool:
        """True where these images and seeds cannot tell the two apart."""
        return self.low <= 0 <= self.high


def summary(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation over seeds, in the unit of `values`.

    A value that is not finite (a run that diverged) makes the mean and the deviation NaN.

    Raises:
        UserError: there are no values.
    """
    if not values:
        raise UserError("a summary needs at least one value, but got none; name at least one seed")
    if not all(math.isfinite(value) for value in values):
        return Summary(math.nan, math.nan if len(values) > 1 else None, len(values))
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired_bootstrap(
    scores_a: ArrayLike, scores_b: ArrayLike, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the mean score of a minus that of b, resampling images and seeds together.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13; both levels are drawn with replacement
    as in Saravanan et al., "Application of the hierarchical bootstrap", 2020. Each resample draws N images and S
    seeds; a and b share the draw, since they saw the same images, and seeds share data order and views.

    With one seed the interval speaks of images alone; with few seeds it is on the narrow side, since resampled
    seeds cannot be more various than the seeds there are.

    Images whose difference is the same under every seed are exchangeable, so what is drawn is how many images of
    each kind there are (a multinomial over at most 3^S kinds), not N image numbers: the same distribution, and its
    cost does not grow with N.

    Args:
        scores_a: (S, N) of a on each image under each seed: booleans, whether it is right, or numbers.
        scores_b: (S, N), the same images and seeds in the same order.
        resamples: how many bootstrap samples.
        level: share of them inside the interval, between 0 and 1.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        Interval in percentage points of booleans, else in the unit of the numbers.

    Raises:
        UserError: shapes that differ or are not (S, N) with S, N >= 1; a level outside (0, 1); no resamples.
    """
    a, b = as_array(scores_a), as_array(scores_b)
    if a.shape != b.shape or a.ndim != 2 or 0 in a.shape:
        raise UserError(
            f"a paired bootstrap needs two tables (seeds, images) of one shape, but got {a.shape} and {b.shape}; "
            "compare rows that were evaluated on the same images under the same seeds"
        )
    if not 0 < level < 1 or resamples < 1:
        raise UserError(f"level must lie between 0 and 1 and resamples be positive, but got {level} and {resamples}")
    is_share = a.dtype.kind != "f" and b.dtype.kind != "f"
    difference = a.astype(bool).astype(np.int8) - b.astype(bool).astype(np.int8) if is_share else a - b  # (S, N)
    unit = 100 if is_share else 1
    totals = np.concatenate(list(_resampled_totals(difference, resamples, np.random.default_rng(seed))))
    points = unit * totals / difference.size
    low, high = np.quantile(points, [(1 - level) / 2, (1 + level) / 2])
    num_seeds, num_images = difference.shape
    return Interval(float(unit * difference.mean()), float(low), float(high), num_images, num_seeds)


def _resampled_totals(
    difference: npt.NDArray[Any], resamples: int, generator: np.random.Generator
) -> Iterator[npt.NDArray[Any]]:
    """Sums of the resampled (S, N) differences, in pieces that keep the memory bounded."""
    num_seeds, num_images = difference.shape
    kinds, counts = np.unique(difference, axis=1, return_counts=True)  # (S, K), (K,)
    at_once = max(1, _COUNTS_AT_ONCE // len(counts))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        images = generator.multinomial(num_images, counts / num_images, size=size)  # (R, K)
        seeds = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size)  # (R, S)
        # float64 holds these whole numbers exactly, so the sums do not depend on their order
        yield np.einsum("rs,rs->r", images.astype(np.float64) @ kinds.T.astype(np.float64), seeds)
