"""What of a teacher's relations a student has: correlations per image and per class, and between classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.analysis.arrays import ArrayLike, as_array
from understudy.utils.errors import UserError

__all__ = ["Relations", "class_correlations", "correlation_gap", "relations"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Relations:
    """Pearson correlation of a student's probabilities with its teacher's, as DIST's two losses see it.

    Attributes:
        per_image: (N,) over the classes of an image: DIST's inter-class relation; NaN where one side is constant.
        per_class: (C,) over the images of a class's column: its intra-class relation.
    """

    per_image: Floats
    per_class: Floats


def relations(student: ArrayLike, teacher: ArrayLike) -> Relations:
    """How a student's probabilities go with its teacher's, image by image and class by class.

    Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, eq. 6 to 9.

    Args:
        student: (N, C) probabilities, or logits.
        teacher: (N, C) the same kind, of the same images.

    Raises:
        UserError: shapes that differ or are not (N, C).
    """
    a, b = _alike(student, teacher)
    return Relations(per_image=_pearson(a, b, axis=1), per_class=_pearson(a, b, axis=0))


def class_correlations(scores: ArrayLike) -> Floats:
    """(C, C) Pearson correlation between classes over the images, as DOT's figure 7 draws it.

    Args:
        scores: (N, C) logits or probabilities, of at least two images.

    Raises:
        UserError: another shape.
    """
    values = np.asarray(as_array(scores), dtype=np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise UserError(f"correlations between classes need scores (N, C) of two images or more, got {values.shape}")
    with np.errstate(invalid="ignore", divide="ignore"):  # a class whose score never changes correlates with nothing
        return np.asarray(np.corrcoef(values, rowvar=False), dtype=np.float64)


def correlation_gap(student: ArrayLike, teacher: ArrayLike) -> tuple[Floats, float]:
    """Difference of the student's class correlations to the teacher's: (C, C), and its mean size off the diagonal.

    Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023, figure 7.

    Args:
        student: (N, C) logits.
        teacher: (N, C) logits of the same images.

    Raises:
        UserError: shapes that differ or are not (N, C).
    """
    a, b = _alike(student, teacher)
    apart = class_correlations(a) - class_correlations(b)
    off_diagonal = ~np.eye(len(apart), dtype=bool)
    return apart, float(np.nanmean(np.abs(apart[off_diagonal])))


def _pearson(a: Floats, b: Floats, *, axis: int) -> Floats:
    a, b = a - a.mean(axis=axis, keepdims=True), b - b.mean(axis=axis, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (a * b).sum(axis=axis) / np.sqrt((a**2).sum(axis=axis) * (b**2).sum(axis=axis))
    return np.asarray(found, dtype=np.float64)


def _alike(student: ArrayLike, teacher: ArrayLike) -> tuple[Floats, Floats]:
    a, b = (np.asarray(as_array(values), dtype=np.float64) for values in (student, teacher))
    if a.shape != b.shape or a.ndim != 2 or 0 in a.shape:
        raise UserError(f"student and teacher need scores (N, C) of the same images, got {a.shape} and {b.shape}")
    return a, b
