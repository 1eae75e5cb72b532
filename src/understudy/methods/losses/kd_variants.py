"""KD with other reductions: losses that some papers' code computes where their text writes Hinton's."""

from __future__ import annotations

from torch import Tensor

from understudy.methods.base import at_least_float32, comparable_logits
from understudy.methods.kd import kd_loss
from understudy.methods.shared.logits import as_rows, label_cross_entropy

__all__ = ["elementwise_kd_loss", "takd_objective"]


def elementwise_kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KD averaged over all elements: C times smaller than Hinton et al.'s.

    What torch's `KLDivLoss()` computes by default, and so the code of TAKD, DeiT's soft distillation and Tf-KD.

    Args:
        student_logits: (M, C), or (N, C, H, W) whose pixels count as rows; half types are raised to float32.
        teacher_logits: the same shape, no gradient flows into it.
        temperature: T > 0, softens both distributions.

    Returns:
        Scalar in nats, times T^2.

    Raises:
        UserError: the shapes differ.
    """
    student_rows, teacher_rows = (as_rows(logits) for logits in comparable_logits(student_logits, teacher_logits))
    return kd_loss(student_rows, teacher_rows, temperature=temperature) / student_rows.shape[1]


def takd_objective(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 5.0,
    distill_weight: float = 0.5,
) -> Tensor:
    """Objective of each hop of teacher-assistant distillation, as released.

    Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020, eq. 3:
    (1 - lambda) * CE + lambda * T^2 * KL. Their code averages the KL over all elements, the paper sums over classes.

    Args:
        student_logits: (M, C); half types are raised to float32, wider ones stay.
        teacher_logits: (M, C) of the teacher or of an assistant, no gradient flows into it.
        labels: (M,) class numbers, the cross-entropy leaves out rows of -1 (unlabelled); or (M, C) mixed.
        temperature: T > 0, softens both distributions of the KL.
        distill_weight: lambda.

    Returns:
        Scalar in nats; the cross-entropy is a mean over labelled rows.

    Raises:
        UserError: the shapes differ.
    """
    distill = elementwise_kd_loss(student_logits, teacher_logits, temperature=temperature)
    task = label_cross_entropy(at_least_float32(student_logits), labels)
    return (1 - distill_weight) * task + distill_weight * distill
