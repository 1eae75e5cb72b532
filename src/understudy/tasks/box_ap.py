"""Average precision of boxes by COCO's rules, from match lists, for every image counted once or by weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.tasks.box_matches import AREAS, IOU_THRESHOLDS, MOST_DETECTIONS, Matches

__all__ = ["BoxScores", "box_scores"]

# In float64: those that torchmetrics takes by default are float32, which moves AP by up to 1e-3 where a class has 25,
# 50 or 100 boxes and so a recall that lies on a threshold.
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)

_Floats = NDArray[np.float64]
_EPS = np.spacing(1.0)


@dataclass(frozen=True, slots=True)
class BoxScores:
    """COCO's twelve numbers, each in 0..1 and -1 where there is nothing to measure, and AP by class."""

    scores: Mapping[str, float]  # AP, AP50, AP75, AP_small ..., AR_1, AR_10, AR_100, AR_small ...
    by_class: _Floats  # (C,) AP; -1 where a class has no box


def box_scores(matches: Matches, weights: NDArray[np.int64] | None = None) -> BoxScores:
    """Average precision and recall of match lists.

    Precision at 101 recalls is the best at that recall or beyond; AP is its mean over these, over ten overlaps from
    0.50 to 0.95, and over the classes that have a box (Lin et al., "Microsoft COCO", ECCV 2014).

    Args:
        matches: of every image.
        weights: (num_images,) whole numbers: how often each image counts, as in a resampled data set; None: once.
    """
    counted = np.ones(matches.num_images, dtype=np.int64) if weights is None else np.asarray(weights)
    shape = (matches.num_classes, len(AREAS), len(IOU_THRESHOLDS))
    precision, recall = np.full(shape, -1.0), np.full(shape, -1.0)
    few = {most: np.full(shape, -1.0) for most in (1, 10)}
    for label in range(matches.num_classes):
        of_boxes = matches.box_label == label
        num_boxes = counted[matches.box_image[of_boxes]] @ matches.box_counts[of_boxes].astype(np.int64)  # (A,)
        chosen = np.flatnonzero(matches.label == label)
        chosen = chosen[np.argsort(-matches.score[chosen], kind="stable")]
        repeats = counted[matches.image[chosen]]
        for area in np.flatnonzero(num_boxes):
            right = matches.is_right[chosen, area] * repeats[:, None]  # (n,T)
            wrong = ~(matches.is_right | matches.is_ignored)[chosen, area] * repeats[:, None]
            precision[label, area], recall[label, area] = _curves(right, wrong, num_boxes[area])
            for most, recalls in few.items():
                is_taken = matches.rank[chosen] < most
                recalls[label, area] = right[is_taken].sum(axis=0) / num_boxes[area]
    return BoxScores(scores=_summed_up(precision, recall, few), by_class=_means(precision[:, 0]))


def _curves(right: NDArray[np.int64], wrong: NDArray[np.int64], num_boxes: int) -> tuple[_Floats, _Floats]:
    """(T,) mean precision over recalls, and (T,) the recall of all, from (n,T) counts in order of score."""
    num_right, num_wrong = right.cumsum(axis=0), wrong.cumsum(axis=0)
    recalls, precisions = num_right / num_boxes, num_right / (num_right + num_wrong + _EPS)
    best = np.maximum.accumulate(precisions[::-1], axis=0)[::-1]
    means = np.zeros(right.shape[1])
    for place in range(right.shape[1]):
        reached = np.searchsorted(recalls[:, place], RECALL_THRESHOLDS, side="left")
        means[place] = best[reached[reached < len(best)], place].sum() / len(RECALL_THRESHOLDS)
    return means, recalls[-1] if len(recalls) else np.zeros(right.shape[1])


def _summed_up(precision: _Floats, recall: _Floats, few: Mapping[int, _Floats]) -> dict[str, float]:
    """The twelve numbers from (C,A,T) means, -1 where a class has no box."""
    threshold = {round(float(value), 2): place for place, value in enumerate(IOU_THRESHOLDS)}
    scores = {
        "AP": _mean(precision[:, 0]),
        "AP50": _mean(precision[:, 0, threshold[0.5]]),
        "AP75": _mean(precision[:, 0, threshold[0.75]]),
    }
    scores |= {f"AP_{name}": _mean(precision[:, place]) for place, name in enumerate(AREAS) if place}
    scores |= {f"AR_{most}": _mean(recalls[:, 0]) for most, recalls in few.items()}
    scores[f"AR_{MOST_DETECTIONS}"] = _mean(recall[:, 0])
    return scores | {f"AR_{name}": _mean(recall[:, place]) for place, name in enumerate(AREAS) if place}


def _mean(values: _Floats) -> float:
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0


def _means(precision: _Floats) -> _Floats:
    """(C,) mean over overlaps of (C,T)."""
    return np.array([_mean(row) for row in precision])
