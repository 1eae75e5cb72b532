"""What the teacher says of the label's class, and what it says of the others among themselves, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.methods.base import comparable_logits, refuse_all_but_rows
from understudy.methods.shared.logits import class_and_rest, mean_over_labelled, one_class_a_row, other_classes

__all__ = ["Decoupled", "decoupled", "top_classes"]


@dataclass(frozen=True, slots=True)
class Decoupled:
    """Divergences of M rows in nats, without T^2: KL(teacher || student) = target + rest * others."""

    target: Tensor  # (M,) between (p_t, 1 - p_t) of both sides
    others: Tensor  # (M,) between both sides' distributions over the classes beside the label's
    rest: Tensor  # (M,) 1 - p_t, what the teacher leaves for the others; no gradient
    is_labelled: Tensor  # (M,)

    def mean(self, divergences: Tensor) -> Tensor:
        """Their mean over the labelled rows; 0 where there is none."""
        return mean_over_labelled(divergences, self.is_labelled)


def decoupled(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    what: str,
    kept: Tensor | int | None = None,
) -> Decoupled:
    """The Kullback-Leibler divergence of softened probabilities, apart by Zhao et al., CVPR 2022, eq. 6.

    Everything stays in log space.

    Args:
        student_logits, teacher_logits: (M, C), C >= 3; no gradient flows into the teacher's.
        labels: (M,) class numbers, -1 where a row has none.
        temperature: T > 0.
        what: the method, as refusals name it.
        kept: (M, C) which classes count among the others, for both sides; that of the label is none of them in any
            case. Where a row keeps no class or one, its divergence is 0. A number: `top_classes`. None: all.

    Raises:
        UserError: the shapes differ, or labels are not one class number per row.
    """
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits, temperature)
    refuse_all_but_rows(what, student_logits)
    target, is_labelled = one_class_a_row(labels, student_logits, method=what)
    if isinstance(kept, int):
        kept = top_classes(teacher_logits, labels, kept)
    student_target, student_others = _split(student_logits / temperature, target, kept)
    teacher_target, teacher_others = _split(teacher_logits / temperature, target, kept)
    return Decoupled(
        target=_divergence(student_target, teacher_target),
        others=_divergence(student_others, teacher_others),
        rest=teacher_target[:, 1].exp(),
        is_labelled=is_labelled,
    )


def top_classes(teacher_logits: Tensor, labels: Tensor, top_k: int) -> Tensor:
    """(M, C) true at the K classes beside the label's which the teacher finds most likely.

    Args:
        teacher_logits: (M, C).
        labels: (M,) class numbers; a row of -1 is like any other.
        top_k: K, from 1 on; C - 1 and more keep all.
    """
    target = labels.long().clamp(min=0)[:, None]
    others = teacher_logits.detach().scatter(1, target, float("-inf"))
    places = others.topk(min(top_k, teacher_logits.shape[1] - 1), dim=1).indices
    return torch.zeros_like(teacher_logits, dtype=torch.bool).scatter(1, places, True)


def _divergence(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)


def _split(logits: Tensor, target: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """Log probabilities of (target, any other) as (M, 2), and of the kept others among themselves as (M, C-1).

    What is not kept has log probability 0 on either side: it adds nothing.
    """
    of_target, others = class_and_rest(logits, target)
    if kept is None:
        return of_target, others
    others, is_kept = (other_classes(values, target[:, None]) for values in (logits, kept))
    # A finite number far below all others: the softmax of a row that keeps none would be NaN with minus infinity.
    lowest = torch.finfo(others.dtype).min / 4
    return of_target, F.log_softmax(others.masked_fill(~is_kept, lowest), dim=1).masked_fill(~is_kept, 0.0)
