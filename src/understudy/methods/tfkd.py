"""Tf-KD: a teacher that is designed by hand, and the label smoothing it generalises."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, at_least_float32
from understudy.methods.shared.logits import classes_of, mean_over_labelled
from understudy.utils.errors import UserError, unknown_name

__all__ = ["Regulariser", "TeacherFreeKD", "tfkd_loss", "virtual_teacher"]

Regulariser = Literal["virtual_teacher", "label_smoothing"]


def virtual_teacher(labels: Tensor, like: Tensor, *, correct_probability: float = 0.99) -> Tensor:
    """What a teacher that is right with probability a says: a on the label, (1 - a) / (C - 1) on any other class.

    Args:
        labels: (M,) class numbers, -1 (unlabelled) counting as 0; or (M, C) mixed, which mixes what it says.
        like: (M, C), for shape, dtype and device.
        correct_probability: a.

    Returns:
        (M, C) probabilities.

    Raises:
        UserError: labels have neither shape.
    """
    classes, _ = classes_of(labels, like, method="tfkd")
    num_classes = like.shape[1]
    # A comparison, since F.one_hot looks at the values of the classes.
    shares = labels if labels.ndim == 2 else classes[:, None] == torch.arange(num_classes, device=classes.device)
    wrong = (1 - correct_probability) / (num_classes - 1)
    return wrong + (correct_probability - wrong) * shares.to(like.dtype)


def tfkd_loss(
    student_logits: Tensor,
    labels: Tensor,
    *,
    regulariser: Regulariser = "virtual_teacher",
    correct_probability: float = 0.99,
    temperature: float = 20.0,
    softens_student: bool = False,
) -> Tensor:
    """Divergence from a hand-made distribution to the student's.

    Yuan et al., "Revisiting Knowledge Distillation via Label Smoothing Regularization", CVPR 2020, section 5:
    virtual_teacher is KL(softmax(u / T) || p_s), u of `virtual_teacher`; label_smoothing is KL(1/C || p_s), so that
    (1 - a) * CE + a * (this + log C) is cross-entropy with labels smoothed by a.

    Args:
        student_logits: (M, C); half types are raised to float32, wider ones stay.
        labels: (M,) class numbers, rows of -1 (unlabelled) are left out of virtual_teacher; or (M, C) mixed.
        regulariser: which of the two; label_smoothing reads no labels, and averages over all rows.
        correct_probability: of the virtual teacher.
        temperature: T > 0, softens the virtual teacher.
        softens_student: p_s is at temperature T too, as the paper writes it; at 1 in the authors' code.

    Returns:
        Scalar in nats: sum over classes, mean over rows.

    Raises:
        UserError: an unknown regulariser, or labels of neither shape.
    """
    logits = at_least_float32(student_logits)
    if regulariser == "label_smoothing":
        uniform = logits.new_full(logits.shape, 1 / logits.shape[1])
        return F.kl_div(F.log_softmax(logits, dim=1), uniform, reduction="batchmean")
    if regulariser != "virtual_teacher":
        raise UserError(f"regulariser {regulariser!r} is {unknown_name(regulariser, get_args(Regulariser))}")
    _, is_labelled = classes_of(labels, logits, method="tfkd")
    teacher = virtual_teacher(labels, logits, correct_probability=correct_probability)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    log_student = F.log_softmax(logits / temperature if softens_student else logits, dim=1)
    divergences = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return mean_over_labelled(divergences, is_labelled)


class TeacherFreeKD(Method, name="tfkd"):
    """The student learns from a teacher designed by hand, which is nearly always right; no network is asked.

    KL(softmax(u / T) || p_s) on (M, C) logits and labels, u being a on the label and (1 - a) / (C - 1) elsewhere: sum
    over classes, mean over labelled rows, no T^2. Or KL(uniform || p_s), label smoothing. Defaults a 0.99, T 20,
    task weight 0.9 and own weight 0.1 are the authors' for ResNet-18 on CIFAR-100; for MobileNetV2 they take T 40,
    task 0.05 and own weight 0.95, divided by C (see below).

    Differs from: the authors average over all M * C elements and multiply by 100 (ResNet-18), which at 100 classes is
    our mean over rows; with their multiplier 1 (MobileNetV2) divide the weight by C. The paper softens both sides, the
    code only the teacher, by a softmax of probabilities / T, and so do we; `softens_student: true` is the paper's.
    Their label smoothing spreads over C - 1 classes, that of the paper's eq. 1 and ours over all C.
    """

    class Config(MethodConfig):
        """Settings of teacher-free KD."""

        regulariser: Regulariser = "virtual_teacher"  # Tf-KD_reg
        correct_probability: float = Field(default=0.99, gt=0, lt=1)  # a; my_loss_function.py
        temperature: float = Field(default=20.0, gt=0)  # T; base_resnet18/params.json: reg_temperature
        softens_student: bool = False  # as the code

    paper = Paper(
        authors="Yuan, Tay, Li, Wang, Feng",
        title="Revisiting Knowledge Distillation via Label Smoothing Regularization",
        venue="CVPR",
        year=2020,
        arxiv="1909.11723",
    )
    default_loss = LossWeights(
        task=0.9, distill=0.1, source="Teacher-free-KD base_resnet18/params.json: reg_alpha 0.1, multiplier 100 = C"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """One term, named as the regulariser."""
        settings = self.config
        loss = tfkd_loss(
            pairing.student_logits,
            pairing.labels,
            regulariser=settings.regulariser,
            correct_probability=settings.correct_probability,
            temperature=settings.temperature,
            softens_student=settings.softens_student,
        )
        return {settings.regulariser: loss}
