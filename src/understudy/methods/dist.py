"""DIST: correlation with the teacher's probabilities, along each prediction and along each class."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Activation, Pairing
from understudy.methods.base import (
    LossWeights,
    Method,
    MethodConfig,
    Paper,
    comparable_logits,
    refuse_all_but_rows,
    refuse_unlike_shapes,
)
from understudy.utils.errors import UserError, unknown_name

__all__ = ["DIST", "EpsMode", "dist_loss", "inter_class_relation", "intra_class_relation"]

EpsMode = Literal["product", "cosine"]

_EPS = 1e-8  # the authors' and torch's own


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau: float = 1.0,
    scale_by_tau_squared: bool = True,
    eps_mode: EpsMode = "product",
    activation: Activation = "softmax",
) -> Tensor:
    """Knowledge distillation from a stronger teacher: beta * inter-class + gamma * intra-class relation.

    Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022: one minus Pearson's correlation
    between softmax(z_s / tau) and softmax(z_t / tau), along rows (inter) and along columns (intra).

    Args:
        student_logits: (M, C), or (N, C, H, W) whose pixels become the rows; half types are raised to float32.
        teacher_logits: the same shape, no gradient flows into it.
        beta: weight of the inter-class relation, a mean over rows.
        gamma: weight of the intra-class relation, a mean over classes.
        tau: temperature > 0 of both softmaxes.
        scale_by_tau_squared: multiply both by tau^2, as the authors' classification code does and the paper does not.
        eps_mode: where 1e-8 keeps the correlation finite: "product" adds it to the product of the two norms
            (authors' code), "cosine" bounds each norm from below (torch.nn.functional.cosine_similarity).
        activation: what makes probabilities of logits; "sigmoid" for the dense heads of detectors, whose C columns
            are anchors x classes at each position (their MMRazor configurations, one such loss for each level).

    Returns:
        Scalar between 0 (perfectly correlated) and 2 * (beta + gamma) * tau^2.

    Raises:
        UserError: the shapes differ, tau is not above 0, or an unknown eps_mode or activation.
    """
    inter, intra = _relations(student_logits, teacher_logits, tau, scale_by_tau_squared, eps_mode, activation)
    return beta * inter + gamma * intra


def inter_class_relation(student: Tensor, teacher: Tensor, *, eps_mode: EpsMode = "product") -> Tensor:
    """One minus the correlation of student and teacher along each row, mean over rows.

    Args:
        student: (M, C) probabilities, float32 or wider.
        teacher: (M, C) probabilities.
        eps_mode: as in `dist_loss`.

    Returns:
        Scalar in 0..2; a row without variance on either side counts 1.
    """
    refuse_all_but_rows("inter_class_relation", student, teacher)
    refuse_unlike_shapes("inter_class_relation", student, teacher)
    return 1 - _correlation_of_rows(student, teacher, eps_mode).mean()


def intra_class_relation(student: Tensor, teacher: Tensor, *, eps_mode: EpsMode = "product") -> Tensor:
    """One minus the correlation along each class over the M predictions, mean over classes.

    Shapes and eps_mode as in `inter_class_relation`. A single prediction gives the constant 1.
    """
    return inter_class_relation(student.mT, teacher.mT, eps_mode=eps_mode)


def _relations(
    student_logits: Tensor,
    teacher_logits: Tensor,
    tau: float,
    scale_by_tau_squared: bool,
    eps_mode: EpsMode,
    activation: Activation = "softmax",
) -> tuple[Tensor, Tensor]:
    """Inter- and intra-class relation, with tau^2 where asked for."""
    if activation not in get_args(Activation):
        raise UserError(f"activation {activation!r} is {unknown_name(activation, get_args(Activation))}")
    logits = comparable_logits(student_logits, teacher_logits, tau)
    rows = [_as_rows(side / tau) for side in logits]
    student, teacher = (side.softmax(dim=1) if activation == "softmax" else side.sigmoid() for side in rows)
    scale = tau**2 if scale_by_tau_squared else 1.0
    inter = inter_class_relation(student, teacher, eps_mode=eps_mode)
    intra = intra_class_relation(student, teacher, eps_mode=eps_mode)
    return scale * inter, scale * intra


def _as_rows(logits: Tensor) -> Tensor:
    return logits.movedim(1, -1).flatten(0, -2)  # (N, C, ...) -> (M, C)


def _correlation_of_rows(student: Tensor, teacher: Tensor, eps_mode: EpsMode) -> Tensor:
    """Pearson's correlation of each row, (M,)."""
    student, teacher = _centred(student), _centred(teacher)
    if eps_mode == "product":
        norms: Tensor = torch.linalg.vector_norm(student, dim=1) * torch.linalg.vector_norm(teacher, dim=1)
        return (student * teacher).sum(dim=1) / (norms + _EPS)
    if eps_mode == "cosine":
        return F.cosine_similarity(student, teacher, dim=1, eps=_EPS)
    raise UserError(f"eps_mode {eps_mode!r} is {unknown_name(eps_mode, get_args(EpsMode))}")


def _centred(rows: Tensor) -> Tensor:
    # Twice: in float32 a uniform row keeps a rounding residue of about 1e-8, as large as eps, after one subtraction.
    rows = rows - rows.mean(dim=1, keepdim=True)
    return rows - rows.mean(dim=1, keepdim=True)


class DIST(Method, name="dist"):
    """The student keeps the teacher's correlations: between classes per prediction, between predictions per class.

    beta * (1 - mean over rows of rho(p_s, p_t)) + gamma * (1 - mean over classes of rho(p_s, p_t)) on (M, C) logits,
    p = softmax(z / tau), rho Pearson's correlation. The authors train with task 1 and 2 times this (the paper's
    beta = gamma = 2), tau 1 on ImageNet, tau 4 on CIFAR-100; on Cityscapes and COCO with 1 times this.
    The gradient at a uniform row is large (about 1e6 per logit at M 8, C 10), a property of the correlation: float16
    cannot hold it, so train a student whose classifier starts at zero in bfloat16 or float32.

    Differs from: the paper's equations have no tau^2, the authors' classification code has, and so have we;
    `scale_by_tau_squared: false` gives the paper's (test_tau_squared_is_the_only_difference_between_code_and_paper).
    `eps_mode: cosine` leaves the authors' code: with few rows and many confident classes the added eps swallows
    the columns of rare classes, 0.65 instead of 0.01 for a perfect student at M 8, C 1000
    (test_cosine_eps_keeps_the_columns_of_rare_classes). Half logits are raised to float32, where eps would be 0.
    """

    class Config(MethodConfig):
        """Settings of DIST."""

        beta: float = Field(default=1.0, ge=0)  # inter-class weight; the paper's 2 lives in `weight`
        gamma: float = Field(default=1.0, ge=0)  # intra-class weight
        tau: float = Field(default=1.0, gt=0)  # 1 on ImageNet, 4 on CIFAR-100 (image_classification_sota)
        scale_by_tau_squared: bool = True  # as the authors' classification code
        eps_mode: EpsMode = "product"  # as the authors' code

    paper = Paper(
        authors="Huang, You, Wang, Qian, Xu",
        title="Knowledge Distillation from A Stronger Teacher",
        venue="NeurIPS",
        year=2022,
        arxiv="2205.10536",
    )
    needs = frozenset({"teacher_logits"})
    rows = "related"
    activations = frozenset({"softmax", "sigmoid"})
    default_loss = LossWeights(
        task=1.0, distill=2.0, source="image_classification_sota resnet_dist.yaml, dist_cifar.yaml: ori 1, kd 2"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "inter" and "intra", weighted by beta and gamma."""
        assert pairing.teacher_logits is not None
        settings = self.config
        inter, intra = _relations(
            pairing.student_logits,
            pairing.teacher_logits,
            settings.tau,
            settings.scale_by_tau_squared,
            settings.eps_mode,
            pairing.activation,
        )
        return {"inter": settings.beta * inter, "intra": settings.gamma * intra}
