"""Which boxes a detector finds where only detections count that are sure enough."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from understudy.tasks.box_matches import Matches

__all__ = ["best_score", "found_boxes"]


def best_score(matches: Matches) -> float:
    """The score from which on detections count, so that F1 at an overlap of 0.5 is the best that it can be.

    F1 is 2 P R / (P + R) of precision and recall over all classes and images; detectors of different families give
    scores of different size, so that no one number suits them all. 1 where nothing is found.
    """
    counts = ~matches.is_ignored[:, 0, 0]
    score, right = matches.score[counts], matches.is_right[counts, 0, 0]
    order = np.argsort(-score, kind="stable")
    num_right, num_boxes = right[order].cumsum(), int(matches.box_counts[:, 0].sum())
    if not len(order) or not num_right[-1]:
        return 1.0
    f1 = 2 * num_right / (np.arange(1, len(order) + 1) + num_boxes)
    return float(score[order][int(f1.argmax())])


def found_boxes(matches: Matches) -> NDArray[np.bool_]:
    """(g,) whether a box is found at an overlap of 0.5 by a detection of its class that is sure enough; no crowds."""
    found: NDArray[np.bool_] = matches.box_counts[:, 0] & (matches.box_score >= best_score(matches))
    return found
