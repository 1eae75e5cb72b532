"""Average precision of many resampled data sets at once, from match lists."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from understudy.tasks.box_ap import RECALL_THRESHOLDS
from understudy.tasks.box_matches import IOU_THRESHOLDS, Matches

__all__ = ["resampled_ap"]

_Floats = NDArray[np.float64]
_EPS = np.spacing(1.0)


def resampled_ap(matches: Matches, weights: NDArray[np.int64]) -> _Floats:
    """AP and AP50 of data sets in which each image is there as often as its weight; as `box_scores`, and faster.

    A precision that is the best at its recall or beyond is that of a detection which finds something, so curves are
    followed from one such detection to the next.

    Args:
        matches: of every image.
        weights: (R,N) whole numbers.

    Returns:
        (R,2) in 0..1, -1 where a data set has no box.
    """
    num_resamples = len(weights)
    sums = np.zeros((num_resamples, len(IOU_THRESHOLDS)))
    num_classes = np.zeros(num_resamples, dtype=np.int64)
    for label in range(matches.num_classes):
        is_there = (matches.box_label == label) & matches.box_counts[:, 0]
        per_image = np.bincount(matches.box_image[is_there], minlength=matches.num_images)
        num_boxes = weights @ per_image  # (R,)
        has_boxes = num_boxes > 0
        num_classes += has_boxes
        of_label = np.flatnonzero(matches.label == label)
        chosen = of_label[np.argsort(-matches.score[of_label], kind="stable")]
        repeats = weights[:, matches.image[chosen]].astype(np.float64)  # (R,n), whole numbers
        precisions = _precisions(
            matches.is_right[chosen, 0], matches.is_ignored[chosen, 0], repeats, np.maximum(num_boxes, 1)
        )
        sums += precisions * has_boxes[:, None]
    means = sums / np.maximum(num_classes, 1)[:, None]
    found = np.stack([means.mean(axis=1), means[:, 0]], axis=1)
    return np.where(num_classes[:, None] > 0, found, -1.0)


def _precisions(
    is_right: NDArray[np.bool_], is_ignored: NDArray[np.bool_], repeats: _Floats, num_boxes: NDArray[np.int64]
) -> _Floats:
    """(R,T) mean precision over recalls of one class, from (n,T) in order of score and (R,n) how often each counts."""
    means = np.zeros((len(repeats), is_right.shape[1]))
    whole = repeats.cumsum(axis=1)
    for place, (right, ignored) in enumerate(zip(is_right.T, is_ignored.T, strict=True)):
        finds = np.flatnonzero(right)
        counted = (repeats * ~ignored).cumsum(axis=1) if ignored.any() else whole
        num_right = repeats[:, finds].cumsum(axis=1)
        best = num_right / (counted[:, finds] + _EPS)
        best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALL_THRESHOLDS, num_right / num_boxes[:, None], side="right")  # (R,k)
        means[:, place] = (best * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALL_THRESHOLDS)
    return means
