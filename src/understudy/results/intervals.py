"""How far two rows lie apart, with the 95 % interval, from what predictions.safetensors keeps of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis.arrays import ArrayLike
from understudy.analysis.intervals import Interval, paired_bootstrap
from understudy.analysis.iou_intervals import paired_iou_bootstrap
from understudy.analysis.statistic_intervals import Resampled, paired_statistic_bootstrap, resampled
from understudy.results.items import item_scores, pixel_counts
from understudy.results.matches import match_list
from understudy.results.values import LARGEST
from understudy.tasks.box_matches import Matches
from understudy.tasks.box_resamples import resampled_ap

__all__ = ["Difference", "Samples", "paired_difference", "samples_of"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Samples:
    """What is known of a row image by image, of which one kind is there."""

    items: Array | None = None  # (S,N) see `item_scores`
    counts: Array | None = None  # (S,N,C,3) see `pixel_counts`
    precisions: Mapping[str, Resampled] | None = None  # in percent, of the images and of resamples, by metric


@dataclass(frozen=True, slots=True)
class Difference:
    """Of two rows by the headline metric, and by others that are quoted beside it."""

    headline: Interval
    beside: Mapping[str, Interval]  # by metric


def samples_of(tensors: Mapping[str, ArrayLike], *, split: str, row: str, seeds: Sequence[int]) -> Samples | None:
    """What of a row was kept that an interval can be drawn from; None where nothing whole was.

    Args:
        tensors: of predictions.safetensors.
        split: "val" or "test".
        row: its name.
        seeds: of the row, all of which must be there.
    """
    items = item_scores(tensors, split=split, row=row, seeds=seeds)
    if items is not None:
        is_table = items.ndim == 2 and items.size > 0 and items.dtype.kind in "bf"
        return Samples(items=items) if is_table and bool((np.abs(items) <= LARGEST).all()) else None
    counts = pixel_counts(tensors, split=split, row=row, seeds=seeds)
    if counts is not None:
        is_table = counts.ndim == 4 and counts.shape[-1] == 3 and counts.size > 0 and counts.dtype.kind in "iu"
        return Samples(counts=counts) if is_table else None
    matches = [match_list(tensors, split=split, of=f"{row}/{seed}") for seed in seeds]
    whole = [one for one in matches if one is not None]
    if not whole or len(whole) < len(matches) or len({one.num_images for one in whole}) > 1:
        return None
    return Samples(precisions=_precisions(whole))


def paired_difference(ours: Samples | None, theirs: Samples | None, *, absent: str = "left_out") -> Difference | None:
    """Ours minus theirs in percentage points or the metric's unit; None where they are not of the same images.

    Args:
        ours: of one row.
        theirs: of another under the same seeds.
        absent: what a class without pixels counts, see `paired_iou_bootstrap`.
    """
    if ours is None or theirs is None:
        return None
    if ours.items is not None and theirs.items is not None and ours.items.shape == theirs.items.shape:
        return Difference(paired_bootstrap(ours.items, theirs.items), {})
    if ours.counts is not None and theirs.counts is not None and ours.counts.shape == theirs.counts.shape:
        return Difference(paired_iou_bootstrap(ours.counts, theirs.counts, absent=absent), {})
    if ours.precisions is None or theirs.precisions is None:
        return None
    pairs = {name: (one, theirs.precisions[name]) for name, one in ours.precisions.items()}
    if any(a.num_images != b.num_images or a.points.shape != b.points.shape for a, b in pairs.values()):
        return None
    found = {name: paired_statistic_bootstrap(a, b) for name, (a, b) in pairs.items()}
    return Difference(found.pop("ap"), found)


def _precisions(matches: Sequence[Matches]) -> dict[str, Resampled]:
    """AP and AP50 of one row's seeds; a resample without a box counts 0."""

    def scores(weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        by_seed = [resampled_ap(one, weights) for one in matches]  # (R,2) each
        return 100 * np.stack(by_seed, axis=1).clip(min=0)

    return dict(zip(("ap", "ap50"), resampled(scores, matches[0].num_images), strict=True))
