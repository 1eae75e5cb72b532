"""Where two classifiers agree, and which of them is right where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis.arrays import ArrayLike, as_array
from understudy.utils.errors import UserError

__all__ = ["Outcomes", "agreement", "outcomes", "per_class_accuracy"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Places of N images, sorted into the four ways a student and its teacher can be right or wrong."""

    both_right: Indices
    only_student: Indices
    only_teacher: Indices
    both_wrong: Indices

    @property
    def num_images(self) -> int:
        """N: every image is in exactly one of the four lists."""
        return len(self.both_right) + len(self.only_student) + len(self.only_teacher) + len(self.both_wrong)


def agreement(predicted: ArrayLike, other: ArrayLike) -> float:
    """Share of images, in percent, on which two classifiers name the same class, right or wrong.

    Args:
        predicted: (N,) class numbers.
        other: (N,) class numbers of the same images.

    Raises:
        UserError: shapes differ, or there are no images.
    """
    a, b = _same_images(predicted, other)
    return float(100 * np.mean(a == b))


def per_class_accuracy(predicted: ArrayLike, labels: ArrayLike, *, num_classes: int) -> npt.NDArray[np.float64]:
    """Share of each class's images, in percent, that are classified right.

    Args:
        predicted: (N,) class numbers.
        labels: (N,) class numbers in 0..C-1.
        num_classes: C.

    Returns:
        (C,) percent; NaN for a class without images.

    Raises:
        UserError: shapes differ, there are no images, or a number lies outside 0..C-1.
    """
    said, true = _class_numbers(predicted, labels, num_classes)
    # No (C, C) table: for 21,000 classes it would take 3.5 GB.
    right = np.bincount(true[said == true], minlength=num_classes)
    counts = np.bincount(true, minlength=num_classes)  # those without a prediction count too
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN here on purpose
        return np.asarray(100 * right / counts, dtype=np.float64)


def _class_numbers(
    predicted: ArrayLike, labels: ArrayLike, num_classes: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    said, true = _same_images(predicted, labels)
    for what, numbers, lowest in (("predictions", said, -1), ("labels", true, 0)):
        if numbers.min() < lowest or numbers.max() >= num_classes:
            raise UserError(
                f"{what} must be class numbers in 0..{num_classes - 1}, but reach from {numbers.min()} to "
                f"{numbers.max()}; set num_classes to the data's, and leave out unlabelled images"
            )
    return said, true


def outcomes(student: ArrayLike, teacher: ArrayLike, labels: ArrayLike) -> Outcomes:
    """Which images both, one, or neither of student and teacher classify right.

    Args:
        student: (N,) class numbers.
        teacher: (N,) class numbers.
        labels: (N,) class numbers.

    Raises:
        UserError: shapes differ, or there are no images.
    """
    said, true = _same_images(student, labels)
    taught, _ = _same_images(teacher, labels)
    student_right, teacher_right = said == true, taught == true
    return Outcomes(
        both_right=np.flatnonzero(student_right & teacher_right),
        only_student=np.flatnonzero(student_right & ~teacher_right),
        only_teacher=np.flatnonzero(~student_right & teacher_right),
        both_wrong=np.flatnonzero(~student_right & ~teacher_right),
    )


def _same_images(first: ArrayLike, second: ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    a, b = as_array(first), as_array(second)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise UserError(
            f"agreement needs two lists of class numbers for the same images, but got shapes {a.shape} and {b.shape}; "
            "give predictions of one and the same split"
        )
    return a, b
