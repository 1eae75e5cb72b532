"""DIST with KL divergence: the ablation that asks whether two directions or the correlation did it."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, comparable_logits
from understudy.methods.dist import DIST
from understudy.methods.kd import kd_loss
from understudy.methods.shared.logits import as_rows

__all__ = ["DISTKL", "dist_kl_loss"]


def dist_kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0
) -> Tensor:
    """DIST's two relations by divergence: beta * KL of the rows + gamma * KL of the columns, both times tau^2.

    Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, the rows "DIST (KL div.)" of its
    ablation of inter- and intra-class relation. A column is the probabilities softmax(z / tau) of one class over
    the batch, divided by their sum.

    Args:
        student_logits: (M, C), or (N, C, H, W) whose pixels become the rows; half types are raised to float32.
        teacher_logits: the same shape, no gradient flows into it.
        beta: weight of the inter-class divergence, a mean over rows.
        gamma: weight of the intra-class divergence, a mean over classes.
        tau: temperature > 0 of all softmaxes.

    Returns:
        Scalar in nats; 0 where student and teacher agree.

    Raises:
        UserError: the shapes differ.
    """
    inter, intra = _divergences(student_logits, teacher_logits, tau)
    return beta * inter + gamma * intra


def _divergences(student_logits: Tensor, teacher_logits: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Mean divergence of rows and of columns, times tau^2."""
    student, teacher = (as_rows(side) for side in comparable_logits(student_logits, teacher_logits, tau))
    # The columns' logarithms serve as logits: a softmax over the batch divides each column by its sum.
    log_student = F.log_softmax(student / tau, dim=1).mT  # (C, M)
    log_teacher = F.log_softmax(teacher / tau, dim=1).mT
    intra = tau**2 * kd_loss(log_student, log_teacher, temperature=1.0)
    return kd_loss(student, teacher, temperature=tau), intra


class DISTKL(Method, name="dist_kl"):
    """The student follows the teacher's probabilities along each prediction and along each class, by KL divergence.

    beta * mean over rows of KL(p_t || p_s) + gamma * mean over classes of KL(q_t || q_s), both times tau^2, on (M, C)
    logits; p = softmax(z / tau), q a column of p divided by its sum over the batch. With gamma 0 it is KD. Weights are
    DIST's, since the ablation names no others. On ImageNet (ResNet-34 to ResNet-18) the paper has 71.21 for KD, 70.61
    for the columns alone, 71.62 for both, and 72.07 for DIST.

    Differs from: the paper does not say how a column becomes a distribution, and no code of this ablation is public;
    ours divides by the sum.
    """

    class Config(MethodConfig):
        """Settings of DIST by KL divergence."""

        beta: float = Field(default=1.0, ge=0)  # inter-class weight
        gamma: float = Field(default=1.0, ge=0)  # intra-class weight
        tau: float = Field(default=1.0, gt=0)  # DIST's on ImageNet

    paper = DIST.paper
    needs = frozenset({"teacher_logits"})
    rows = "related"
    default_loss = LossWeights(
        task=1.0, distill=2.0, source="DIST's (image_classification_sota: ori 1, kd 2); the ablation names none"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "inter" and "intra", weighted by beta and gamma."""
        assert pairing.teacher_logits is not None
        inter, intra = _divergences(pairing.student_logits, pairing.teacher_logits, self.config.tau)
        return {"inter": self.config.beta * inter, "intra": self.config.gamma * intra}
