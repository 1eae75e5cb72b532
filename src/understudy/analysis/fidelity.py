"""How faithfully a student says what its teacher says, where the teacher is right and where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis.arrays import ArrayLike, as_array
from understudy.analysis.relations import correlation_gap
from understudy.utils.errors import UserError

__all__ = ["Fidelity", "fidelity"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """A student beside its teacher on N images; what an empty part of them would tell is NaN.

    Attributes:
        agreement: percent of the images of which both say the same.
        kl: KL(teacher || student) at T = 1, mean over the images, in nats.
        agreement_where_wrong: percent of the images that the teacher gets wrong: the student says the same wrong class.
        right_where_wrong: percent of these that the student gets right.
        kl_where_wrong: over these.
        num_wrong: how many these are.
        correlation_gap: mean size of the difference between both matrices of class correlations, off the diagonal.
        apart: (C, C) that difference, student minus teacher.
    """

    agreement: float
    kl: float
    agreement_where_wrong: float
    right_where_wrong: float
    kl_where_wrong: float
    num_wrong: int
    correlation_gap: float
    apart: Floats


def fidelity(student: ArrayLike, teacher: ArrayLike, labels: ArrayLike) -> Fidelity:
    """Agreement, divergence and class correlations of a student with its teacher.

    Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023, figure 7; Stanton et al., "Does Knowledge
    Distillation Really Work?", NeurIPS 2021, for agreement and KL as fidelity.

    Args:
        student: (N, C) logits.
        teacher: (N, C) logits of the same images.
        labels: (N,) class numbers.

    Raises:
        UserError: shapes that do not go together, or fewer than two images.
    """
    ours, theirs, true = as_array(student), as_array(teacher), as_array(labels)
    if ours.shape != theirs.shape or ours.ndim != 2 or true.shape != ours.shape[:1] or len(ours) < 2:
        raise UserError(
            f"fidelity needs logits (N, C) of student and teacher and labels (N,) of two images or more, got "
            f"{ours.shape}, {theirs.shape} and {true.shape}"
        )
    log_ours, log_theirs = (_log_softmax(x) for x in (ours, theirs))
    divergence = (np.exp(log_theirs) * (log_theirs - log_ours)).sum(axis=1)  # (N,)
    said, taught = ours.argmax(axis=1), theirs.argmax(axis=1)
    wrong = taught != true
    apart, gap = correlation_gap(ours, theirs)
    return Fidelity(
        agreement=_percent(said == taught),
        kl=float(divergence.mean()),
        agreement_where_wrong=_percent((said == taught)[wrong]),
        right_where_wrong=_percent((said == true)[wrong]),
        kl_where_wrong=float(divergence[wrong].mean()) if wrong.any() else float("nan"),
        num_wrong=int(wrong.sum()),
        correlation_gap=gap,
        apart=apart,
    )


def _log_softmax(logits: npt.NDArray[Any]) -> Floats:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _percent(flags: npt.NDArray[np.bool_]) -> float:
    return float(100 * flags.mean()) if flags.size else float("nan")
