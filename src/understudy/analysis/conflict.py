"""Where two losses pull a network the same way, and where against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.utils.errors import UserError

__all__ = ["Conflict", "conflict", "consistent_part", "cosine"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """How the gradients, or the momenta, of a task and a distill loss go together.

    Attributes:
        cosine: of the angle between them; NaN where one is zero.
        opposed: percent of the numbers that both change on which they have opposite signs.
        consistent: percent of their size (sum of absolute values) that lies in the part they share, v_con of eq. 6.
        difference: ||v_distill - v_task||, which is what DOT adds to plain momentum over delta (eq. 9).
        total: ||v_task + v_distill||.
    """

    cosine: float
    opposed: float
    consistent: float
    difference: float
    total: float


def consistent_part(task: Tensor, distill: Tensor) -> Tensor:
    """What two vectors have in common, number by number: 0 where signs differ, else the smaller one.

    Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023, eq. 6 writes v_task = v_con + v_task_incon and
    likewise for v_distill, and leaves v_con open; this is the largest that neither has to turn back from.
    """
    smaller = torch.minimum(task.abs(), distill.abs()) * task.sign()
    return torch.where(task * distill > 0, smaller, torch.zeros_like(smaller))


def conflict(task: Sequence[Tensor], distill: Sequence[Tensor]) -> Conflict:
    """Agreement and conflict of two gradients or momenta, given parameter by parameter.

    The same source, eq. 6 to 9: v_diff = v_dot - v_sgd = delta (v_distill_incon - v_task_incon), and the inconsistent
    parts differ by as much as the momenta themselves, whatever part they share.

    Args:
        task: tensors of any shapes.
        distill: the same shapes in the same order.

    Raises:
        UserError: shapes that differ, or no tensors.
    """
    if not task or [a.shape for a in task] != [b.shape for b in distill]:
        raise UserError("two gradients are compared parameter by parameter: give the same shapes in the same order")
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(task, distill, strict=True)]
    both = sum(int(((a != 0) & (b != 0)).sum()) for a, b in pairs)
    opposed = sum(int((a * b < 0).sum()) for a, b in pairs)
    shared = sum(2 * float(consistent_part(a, b).abs().sum()) for a, b in pairs)
    size = sum(float(a.abs().sum() + b.abs().sum()) for a, b in pairs)
    return Conflict(
        cosine=cosine(task, distill),
        opposed=100 * opposed / both if both else float("nan"),
        consistent=100 * shared / size if size else float("nan"),
        difference=sum(float((b - a).square().sum()) for a, b in pairs) ** 0.5,
        total=sum(float((b + a).square().sum()) for a, b in pairs) ** 0.5,
    )


def cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Cosine of the angle between two vectors that lie in pieces, in float64; NaN where one of them is zero."""
    pairs = [(a.detach().double().flatten(), b.detach().double().flatten()) for a, b in zip(first, second, strict=True)]
    product, one, other = (
        sum(float(x @ y) for x, y in found) for found in (pairs, [(a, a) for a, _ in pairs], [(b, b) for _, b in pairs])
    )
    return product / (one * other) ** 0.5 if one > 0 and other > 0 else float("nan")
