"""Spherical KD: the student's logits are compared at the teacher's scale, not at their own."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits
from understudy.methods.kd import kd_loss
from understudy.methods.shared.logits import label_cross_entropy
from understudy.utils.errors import UserError, unknown_name

__all__ = ["Sphere", "Spherical", "spherical_loss"]

Sphere = Literal["teacher_std", "layer_norm"]

_EPS = 1e-7  # the authors' README


def spherical_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    sphere: Sphere = "teacher_std",
    radius: float = 2.0,
    temperature: float = 4.0,
    kd_weight: float = 0.9,
    ce_weight: float = 0.1,
) -> Tensor:
    """Spherical knowledge distillation: kd_weight * T^2 * KL + ce_weight * cross-entropy, on logits of one scale.

    Guo et al., "Reducing the Teacher-Student Gap via Spherical Knowledge Distillation", 2020. teacher_std: each row
    of the student's times std(teacher's row) / std(its own), the teacher's as they are. layer_norm: both rows to mean
    0, variance 1, times radius.

    Args:
        student_logits: (M, C); half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        labels: (M,) class numbers, the cross-entropy leaves out rows of -1 (unlabelled); or (M, C) mixed.
        sphere: which of the two.
        radius: of layer_norm; 2 to 3 in the authors' README.
        temperature: T > 0, softens both distributions of the KL.
        kd_weight: weight of the KL, a mean over rows.
        ce_weight: weight of the cross-entropy of the scaled student logits, a mean over labelled rows.

    Returns:
        Scalar, in nats.

    Raises:
        UserError: the shapes differ, or an unknown sphere.
    """
    kd, ce = _terms(student_logits, teacher_logits, labels, sphere, radius, temperature)
    return kd_weight * kd + ce_weight * ce


def _terms(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, sphere: Sphere, radius: float, temperature: float
) -> tuple[Tensor, Tensor]:
    student, teacher = comparable_logits(student_logits, teacher_logits)
    if sphere == "teacher_std":
        student = _at_scale_of(teacher, student)
    elif sphere == "layer_norm":
        student, teacher = (radius * F.layer_norm(side, side.shape[1:], eps=_EPS) for side in (student, teacher))
    else:
        raise UserError(f"sphere {sphere!r} is {unknown_name(sphere, get_args(Sphere))}")
    return kd_loss(student, teacher, temperature=temperature), label_cross_entropy(student, labels)


def _at_scale_of(teacher: Tensor, student: Tensor) -> Tensor:
    """Student rows with the teacher's standard deviation.

    Their mean goes too: no softmax sees it, and it would swamp the digits of a row that is nearly uniform.
    """
    variance, mean = torch.var_mean(student, dim=1, keepdim=True)
    return (student - mean) * teacher.std(dim=1, keepdim=True) * variance.clamp(min=_EPS).rsqrt()


class Spherical(Method, name="spherical"):
    """The student's logits are rescaled, row by row, so that only their direction has to be learnt.

    kd_weight * T^2 * KL(p_t || p_s) + ce_weight * CE(p_s, label) on (M, C) logits, p_s of the rescaled logits: sum
    over classes, mean over rows. The cross-entropy on rescaled logits takes the task loss's place, so the task weight
    is 0; rescaling changes no prediction. Defaults T 4, 0.9 and 0.1 are the first phase of the released ImageNet code,
    which goes to 0.5 and 0.5 at epoch 60 and to 0.1 and 0.9 at epoch 80. No CIFAR-100 values were released. An update
    that treats task and distill loss apart wants `ce_weight: 0` and a recipe's `task_weight: 0.1`.

    Differs from: the README and the paper put both sides on a sphere, the released loop scales the student to the
    teacher's standard deviation, and so do we; `sphere: layer_norm` gives the README's. A uniform student row is 0/0
    there; here its variance counts at least 1e-7 (test_a_uniform_student_row_is_finite). Equal elsewhere (golden
    spherical_kd, spherical_kd_readme).
    """

    class Config(MethodConfig):
        """Settings of spherical KD."""

        sphere: Sphere = "teacher_std"  # as the released loop
        radius: float = Field(default=2.0, gt=0)  # of layer_norm; README: 2 to 3
        temperature: float = Field(default=4.0, gt=0)  # T; skd_main.py
        kd_weight: float = Field(default=0.9, ge=0)  # skd_main.py, epochs below 60
        ce_weight: float = Field(default=0.1, ge=0)  # 1 - kd_weight there

    paper = Paper(
        authors="Guo, Chen, Hu, Zhu, He, Cai",
        title="Reducing the Teacher-Student Gap via Spherical Knowledge Distillation",
        venue="arXiv",
        year=2020,
        arxiv="2010.07485",
    )
    needs = frozenset({"teacher_logits"})
    default_loss = LossWeights(
        task=0.0, distill=1.0, source="skd_main.py: 0.9 KL + 0.1 CE, both on rescaled logits, hence no other CE"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "kd" and "ce", weighted by kd_weight and ce_weight."""
        assert pairing.teacher_logits is not None
        settings = self.config
        kd, ce = _terms(
            pairing.student_logits,
            pairing.teacher_logits,
            pairing.labels,
            settings.sphere,
            settings.radius,
            settings.temperature,
        )
        return {"kd": settings.kd_weight * kd, "ce": settings.ce_weight * ce}
