"""Losses of students that answer more than once: a class token's head, and a head for each distillation token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.methods.base import at_least_float32, comparable_logits
from understudy.methods.kd import kd_loss
from understudy.methods.losses.kd_variants import elementwise_kd_loss
from understudy.methods.shared.logits import label_cross_entropy
from understudy.utils.errors import UserError

__all__ = ["co_advise_objective", "deit_hard_loss", "deit_hard_objective", "deit_soft_loss", "deit_soft_objective"]


def deit_hard_loss(token_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy of the distillation token's head with the class that the teacher names.

    Touvron et al., "Training data-efficient image transformers & distillation through attention", ICML 2021, eq. 3.
    The teacher sees the same mixed image; its first largest logit is the label of the whole image.

    Args:
        token_logits: (M, C); half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.

    Returns:
        Scalar mean over rows, in nats.

    Raises:
        UserError: the shapes differ.
    """
    token_logits, teacher_logits = comparable_logits(token_logits, teacher_logits)
    return F.cross_entropy(token_logits, teacher_logits.argmax(dim=1))


def deit_soft_loss(token_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 3.0) -> Tensor:
    """KD of the distillation token's head, averaged over all elements as DeiT's code does.

    Touvron et al., ICML 2021, eq. 2, which sums over classes where the code divides by M * C. Shapes, errors and
    unit as in `deit_hard_loss`; temperature is the paper's tau, 3.
    """
    return elementwise_kd_loss(token_logits, teacher_logits, temperature=temperature)


def deit_hard_objective(
    class_logits: Tensor, token_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, alpha: float = 0.5
) -> Tensor:
    """(1 - alpha) * cross-entropy of the class token's head + alpha * `deit_hard_loss` of the other's.

    Args:
        class_logits: (M, C); half types are raised to float32, wider ones stay.
        token_logits: (M, C).
        teacher_logits: (M, C), no gradient flows into it.
        labels: (M,) class numbers, the cross-entropy leaves out rows of -1 (unlabelled); or (M, C) mixed.
        alpha: 0.5 in DeiT's code for hard distillation.

    Returns:
        Scalar, in nats.

    Raises:
        UserError: the shapes differ.
    """
    task = label_cross_entropy(at_least_float32(class_logits), labels)
    return (1 - alpha) * task + alpha * deit_hard_loss(token_logits, teacher_logits)


def deit_soft_objective(
    class_logits: Tensor,
    token_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.1,
    temperature: float = 3.0,
) -> Tensor:
    """(1 - alpha) * cross-entropy of the class token's head + alpha * `deit_soft_loss` of the other's.

    Shapes, unit and errors as in `deit_hard_objective`; alpha 0.1 and temperature 3 are the paper's.
    """
    task = label_cross_entropy(at_least_float32(class_logits), labels)
    return (1 - alpha) * task + alpha * deit_soft_loss(token_logits, teacher_logits, temperature=temperature)


def co_advise_objective(
    class_logits: Tensor,
    token_logits: Sequence[Tensor],
    teacher_logits: Sequence[Tensor],
    labels: Tensor,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy of the class token's head + KD of each other token from a teacher of its own, all weights 1.

    Ren et al., "Co-advise: Cross Inductive Bias Distillation", CVPR 2022; the released code, with its soft
    distillation and T = 1. Two teachers there, one of convolutions and one of involutions; any number here.

    Args:
        class_logits: (M, C); half types are raised to float32, wider ones stay.
        token_logits: (M, C) for each distillation token.
        teacher_logits: (M, C) for each token's teacher, no gradient flows into them.
        labels: (M,) class numbers, the cross-entropy leaves out rows of -1 (unlabelled); or (M, C) mixed.
        temperature: T > 0, softens the distributions of all divergences, which are times T^2.

    Returns:
        Scalar in nats: sum over classes, mean over rows.

    Raises:
        UserError: as many tokens as teachers there are not, or the shapes differ.
    """
    if len(token_logits) != len(teacher_logits):
        raise UserError(
            f"co-advise gives each distillation token one teacher, but got {len(token_logits)} tokens and "
            f"{len(teacher_logits)} teachers; list them in the same order, one for one"
        )
    task = label_cross_entropy(at_least_float32(class_logits), labels)
    distill = [
        kd_loss(token, teacher, temperature=temperature)
        for token, teacher in zip(token_logits, teacher_logits, strict=True)
    ]
    return torch.stack([task, *distill]).sum()
