"""What a run of segmentation kept for its page: pixels by class, and a few images with their masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.results.items import pixel_counts
from understudy.results.schema import Results

__all__ = ["Example", "class_ious", "examples_in"]

MOST_SIDE = 512
MOST_EXAMPLES = 8

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Example:
    """An image and its masks."""

    image: Array  # (h,w,3) uint8
    masks: Mapping[str, Array]  # (h,w) uint8 by "truth", "teacher" and names of rows


def class_ious(tensors: Mapping[str, Array], results: Results) -> dict[str, npt.NDArray[np.float64]]:
    """(C,) IoU in percent by row, the mean over its seeds, the teacher's under "/teacher"; NaN without such pixels."""
    split, found = results.split, {}
    for row in results.rows:
        counts = pixel_counts(tensors, split=split, row=row.name, seeds=[seed.seed for seed in row.seeds])
        if counts is not None and _fits(counts, 4, results):
            by_seed = np.stack([_ious(of_seed) for of_seed in counts])
            there = np.isfinite(by_seed).sum(axis=0)
            sums = np.nansum(by_seed, axis=0)
            found[row.name] = np.divide(sums, there, out=np.full(sums.shape, np.nan), where=there > 0)
    teacher = tensors.get(f"counts/{split}/teacher")
    if teacher is not None and _fits(teacher, 3, results):
        found["/teacher"] = _ious(teacher)
    return found


def examples_in(tensors: Mapping[str, Array], results: Results) -> tuple[Example, ...]:
    """The images that were kept with masks, those of damaged or strange shape left out."""
    found = []
    for number in range(MOST_EXAMPLES):
        image, truth = (tensors.get(f"examples/{what}/{number}") for what in ("image", "truth"))
        if image is None or truth is None or image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] != 3:
            continue
        shape = image.shape[1:]
        named = {"truth": truth, "teacher": tensors.get(f"examples/teacher/{number}")}
        named |= {row.name: tensors.get(f"examples/row/{row.name}/{number}") for row in results.rows}
        masks = {
            name: mask
            for name, mask in named.items()
            if mask is not None and mask.dtype == np.uint8 and mask.shape == shape
        }
        if max(shape) <= MOST_SIDE and min(shape) > 0 and "truth" in masks:
            found.append(Example(np.moveaxis(image, 0, -1), masks))
    return tuple(found)


def _fits(counts: Array, ndim: int, results: Results) -> bool:
    is_table = counts.ndim == ndim and counts.shape[-2:] == (results.data.num_classes, 3)
    return is_table and counts.size > 0 and counts.dtype.kind in "iu" and int(counts.min()) >= 0


def _ious(counts: Array) -> npt.NDArray[np.float64]:
    """(C,) of (N,C,3)."""
    right, said, true = np.moveaxis(counts.sum(axis=0, dtype=np.float64), -1, 0)
    union = said + true - right
    ious: npt.NDArray[np.float64] = np.divide(100 * right, union, out=np.full(union.shape, np.nan), where=union > 0)
    return ious
