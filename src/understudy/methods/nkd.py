"""NKD: the teacher's belief in the label, and its normalised beliefs about the other classes."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits
from understudy.methods.shared.logits import classes_of, mean_over_labelled, other_classes

__all__ = ["NKD", "nkd_loss"]


def nkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, gamma: float = 3.5, temperature: float = 3.0
) -> Tensor:
    """Normalised knowledge distillation: target term + gamma * T^2 * non-target term, both cross-entropies.

    Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss
    and Customized Soft Labels", ICCV 2023, eq. 6: -p_t log p_s of the label, at temperature 1, and
    -sum_c p'_t log p'_s over the other classes, p' their softmax at temperature T among themselves.

    Args:
        student_logits: (M, C), C >= 3; half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        labels: (M,) class numbers, rows of -1 (unlabelled) are left out; or (M, C) mixed, whose largest share counts.
        gamma: weight of the non-target term.
        temperature: T > 0 of the non-target term alone.

    Returns:
        Scalar mean over the labelled rows, in nats; 0 where no row is labelled. It is bounded below by
        gamma * T^2 times the teacher's entropy over the other classes, not by 0.

    Raises:
        UserError: shapes of the logits differ, or labels have neither shape.
    """
    target, non_target = _terms(student_logits, teacher_logits, labels, temperature)
    return target + gamma * non_target


def _terms(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The target term, and the non-target term times T^2."""
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits, temperature)
    classes, is_labelled = classes_of(labels, student_logits, method="nkd")
    taken = classes[:, None]
    log_student = F.log_softmax(student_logits, dim=1).gather(1, taken)[:, 0]
    target = -F.softmax(teacher_logits, dim=1).gather(1, taken)[:, 0] * log_student
    log_others = F.log_softmax(other_classes(student_logits, taken) / temperature, dim=1)  # (M, C-1)
    others = F.softmax(other_classes(teacher_logits, taken) / temperature, dim=1)
    non_target = -(others * log_others).sum(dim=1) * temperature**2
    return mean_over_labelled(target, is_labelled), mean_over_labelled(non_target, is_labelled)


class NKD(Method, name="nkd"):
    """The student's belief in the label is weighed by the teacher's, and its other beliefs follow the teacher's.

    -p_t log p_s of the label + gamma * T^2 * cross-entropy of the other classes' softmax at T, on (M, C) logits and
    labels: sum over classes, mean over labelled rows. Added to a task loss of weight 1. Defaults gamma 3.5 and T 3
    are the authors' on CIFAR-100; on ImageNet they take gamma 1.5 and T 1.

    Differs from: nothing in value (golden nkd). Unlabelled rows (-1) are left out; the authors' code knows none. The
    target term always is at temperature 1, and mixed labels count as their largest share, both as in their code.
    """

    class Config(MethodConfig):
        """Settings of NKD."""

        gamma: float = Field(default=3.5, ge=0)  # cls_KD res34_distill_res18_cifar.py; 1.5 on ImageNet
        temperature: float = Field(default=3.0, gt=0)  # the same file; 1 on ImageNet

    paper = Paper(
        authors="Yang, Zeng, Li, Zhang, Yuan, Li",
        title="From Knowledge Distillation to Self-Knowledge Distillation: "
        "A Unified Approach with Normalized Loss and Customized Soft Labels",
        venue="ICCV",
        year=2023,
        arxiv="2303.13005",
    )
    needs = frozenset({"teacher_logits"})
    min_classes = 3  # with two classes there is one other class, and its cross-entropy is identically 0
    default_loss = LossWeights(task=1.0, distill=1.0, source="cls_KD res34_distill_res18_cifar.py: CE + NKD")

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "target" and "non_target", the latter weighted by gamma."""
        assert pairing.teacher_logits is not None
        target, non_target = _terms(
            pairing.student_logits, pairing.teacher_logits, pairing.labels, self.config.temperature
        )
        return {"target": target, "non_target": self.config.gamma * non_target}
