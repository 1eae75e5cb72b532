"""Whether a classifier is as often right as it says: calibration error, reliability, confusion, classes it uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from understudy.analysis.arrays import ArrayLike, as_array
from understudy.utils.errors import UserError

__all__ = ["Calibration", "calibration", "confusion", "effective_classes", "reliability"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """How confidence and accuracy go together over N images.

    Attributes:
        error: expected calibration error in percentage points, over bins of equal width.
        largest: the largest gap of a bin, in percentage points.
        nll: mean negative log likelihood of the labels, in nats.
        confidence: (K,) mean confidence of each bin, percent; NaN of an empty one.
        accuracy: (K,) percent likewise.
        counts: (K,) images of each bin.
    """

    error: float
    largest: float
    nll: float
    confidence: Floats
    accuracy: Floats
    counts: npt.NDArray[np.int64]


def calibration(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> Calibration:
    """Expected calibration error with equal-width bins, and what a reliability diagram is drawn of.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3; as torchmetrics has it with norm l1.

    Args:
        probabilities: (N, C), rows that sum to 1.
        labels: (N,) class numbers.
        num_bins: K; a confidence on a bound belongs to the bin below.

    Raises:
        UserError: shapes that do not go together, no images, rows that are no probabilities.
    """
    p, true = np.asarray(as_array(probabilities), dtype=np.float64), as_array(labels)
    if p.ndim != 2 or true.shape != p.shape[:1] or not len(p):
        raise UserError(f"calibration needs probabilities (N, C) and labels (N,), got {p.shape} and {true.shape}")
    if (p < 0).any() or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise UserError("rows of probabilities must not be negative and sum to 1; take the softmax of logits first")
    confidence, is_right = p.max(axis=1), p.argmax(axis=1) == true
    return reliability(confidence, is_right, p[np.arange(len(p)), true], num_bins=num_bins)


def reliability(
    confidence: ArrayLike, is_right: ArrayLike, label_probability: ArrayLike, *, num_bins: int = 15
) -> Calibration:
    """As `calibration`, of what is left of the probabilities where they are not kept whole.

    Args:
        confidence: (N,) probability of the class that is named.
        is_right: (N,) whether that is the label.
        label_probability: (N,) probability of the label.
        num_bins: K.

    Raises:
        UserError: shapes that do not go together, no images, numbers outside [0,1].
    """
    sure, likely = (np.asarray(as_array(x), dtype=np.float64) for x in (confidence, label_probability))
    right = as_array(is_right)
    if sure.ndim != 1 or not len(sure) or not sure.shape == likely.shape == right.shape:
        raise UserError(f"reliability needs three lists (N,), got {sure.shape}, {right.shape} and {likely.shape}")
    if not all(((x >= 0) & (x <= 1 + 1e-6)).all() for x in (sure, likely)):
        raise UserError("probabilities must lie between 0 and 1")
    places = np.clip(np.ceil(sure * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    counts = np.bincount(places, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 of an empty bin is NaN on purpose
        said = np.bincount(places, weights=sure, minlength=num_bins) / counts
        found = np.bincount(places, weights=right, minlength=num_bins) / counts
    gaps = np.nan_to_num(np.abs(said - found))
    return Calibration(
        error=float(100 * (gaps * counts).sum() / len(sure)),
        largest=float(100 * gaps.max()),
        nll=float(-np.log(np.clip(likely, np.finfo(np.float64).tiny, None)).mean()),
        confidence=100 * said,
        accuracy=100 * found,
        counts=counts,
    )


def confusion(predicted: ArrayLike, labels: ArrayLike, *, num_classes: int) -> npt.NDArray[np.int64]:
    """(C, C) how many images of class i are taken for class j.

    Args:
        predicted: (N,) class numbers.
        labels: (N,) class numbers.
        num_classes: C.

    Raises:
        UserError: shapes differ, or a number lies outside 0..C-1.
    """
    said, true = as_array(predicted), as_array(labels)
    if said.shape != true.shape or said.ndim != 1:
        raise UserError(
            f"confusion needs predictions and labels (N,) of the same images, got {said.shape}, {true.shape}"
        )
    for what, numbers in (("predictions", said), ("labels", true)):
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= num_classes):
            raise UserError(f"{what} must be class numbers in 0..{num_classes - 1}")
    return np.bincount(true * num_classes + said, minlength=num_classes**2).reshape(num_classes, num_classes)


def effective_classes(predicted: ArrayLike, *, num_classes: int) -> float:
    """How many classes a classifier really uses: e to the entropy of how often it names each; C where all alike.

    Args:
        predicted: (N,) class numbers.
        num_classes: C.
    """
    shares = np.bincount(as_array(predicted), minlength=num_classes) / len(as_array(predicted))
    there = shares[shares > 0]
    return float(np.exp(-(there * np.log(there)).sum()))
