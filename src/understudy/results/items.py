"""Scores item by item, as predictions.safetensors keeps them: what intervals are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis.arrays import ArrayLike, as_array

__all__ = ["item_scores", "pixel_counts"]


def item_scores(
    tensors: Mapping[str, ArrayLike], *, split: str, row: str, seeds: Sequence[int]
) -> npt.NDArray[Any] | None:
    """What the headline metric of a row is the mean of, for each seed and item.

    A task keeps them under "items/SPLIT/ROW/SEED"; classification keeps predicted classes under "SPLIT/ROW/SEED" and
    labels under "SPLIT/labels", from which it follows which images are right.

    Returns:
        (S, N) booleans, or numbers in the metric's unit; None where they were not kept, or are not as many each.
    """
    found = [_of_seed(tensors, split, f"{row}/{seed}") for seed in seeds]
    there = [scores for scores in found if scores is not None]
    if not there or len(there) < len(found) or len({scores.shape for scores in there}) > 1:
        return None
    return np.stack(there)


def pixel_counts(
    tensors: Mapping[str, ArrayLike], *, split: str, row: str, seeds: Sequence[int]
) -> npt.NDArray[Any] | None:
    """(S, N, C, 3) pixels by seed, image and class of a row of segmentation; None where they were not kept."""
    found = [tensors.get(f"counts/{split}/{row}/{seed}") for seed in seeds]
    there = [as_array(counts) for counts in found if counts is not None]
    if not there or len(there) < len(found) or len({counts.shape for counts in there}) > 1:
        return None
    return np.stack(there)


def _of_seed(tensors: Mapping[str, ArrayLike], split: str, of: str) -> npt.NDArray[Any] | None:
    if (kept := tensors.get(f"items/{split}/{of}")) is not None:
        return as_array(kept)
    labels, said = tensors.get(f"{split}/labels"), tensors.get(f"{split}/{of}")
    if labels is None or said is None:
        return None
    return np.asarray(as_array(said) == as_array(labels))
