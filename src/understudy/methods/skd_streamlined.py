"""Streamlined KD: the teacher's class probabilities, and in which directions its predictions lie to each other."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits, refuse_all_but_rows
from understudy.methods.kd import kd_loss
from understudy.methods.shared.embeddings import unit_rows
from understudy.methods.shared.maps import full_precision
from understudy.utils.errors import UserError, unknown_name

__all__ = ["Form", "StreamlinedKD", "skd_direction_loss", "skd_streamlined_loss"]

Form = Literal["released", "paper"]

_MOST_ROWS = 8192  # whose matrices take 256 MiB each in float32, and whose factor takes seconds


def skd_streamlined_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    form: Form = "released",
    temperature: float = 4.0,
    tikhonov: float = 0.1,
    instance_weight: float = 1.0,
    direction_weight: float = 1.0,
) -> Tensor:
    """Streamlined knowledge distillation: instance term + direction term.

    Jeong, Lee and Choi, "Streamlined Knowledge Distillation", CVPR 2026. The instance term is
    KL(softmax(z_t / T) || softmax(z_s / T)), a mean over rows; for the other see `skd_direction_loss`.

    Args:
        student_logits: (M, C), 2 <= M <= 8192; half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        form: paper has neither; released has T^2 on the instance term, and cosines divided by C in the direction term.
        temperature: T > 0, of the instance term alone.
        tikhonov: > 0, of the direction term.
        instance_weight: of the one.
        direction_weight: of the other.

    Returns:
        Scalar; 0 where both sides are equal.

    Raises:
        UserError: the shapes differ, the logits are no rows, a single row or too many of them; an unknown form.
    """
    instance, direction = _terms(student_logits, teacher_logits, form, temperature, tikhonov)
    return instance_weight * instance + direction_weight * direction


def skd_direction_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, tikhonov: float = 0.1, divisor: float = 1.0
) -> Tensor:
    """Mean Mahalanobis length of the rows in which two matrices of cosines differ.

    D = G_s - G_t, G the (M, M) cosines between the rows of logits over the divisor, S = cov(D) + tikhonov I over the
    rows of D (unbiased): 1 / M * sum over i of sqrt(D_i^T S^-1 D_i). That is the Euclidean length of L^-1 D_i,
    L L^T = S, and computed so; the gradient goes through S, too, and is 0 where D_i is.

    Args:
        student_logits: (M, C), 2 <= M <= 8192; half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        tikhonov: > 0, keeps S invertible.
        divisor: > 0; with a large one S is tikhonov I, and the loss a plain distance.

    Returns:
        Scalar, a mean over rows.

    Raises:
        UserError: the shapes differ, the logits are no rows, a single row or too many of them.
    """
    student, teacher = comparable_logits(student_logits, teacher_logits)
    refuse_all_but_rows("skd_streamlined", student)
    num_rows = len(student)
    if not 2 <= num_rows <= _MOST_ROWS:
        raise UserError(
            f"skd_streamlined relates each row to all others and got {num_rows}; it takes 2 to {_MOST_ROWS}, so set "
            "method.rows=local and method.group_size=256 to relate many (positions of masks) in groups, or take 'kd'"
        )
    student, teacher = unit_rows(student), unit_rows(teacher)
    with full_precision(student):
        difference = (student @ student.T - teacher @ teacher.T) / divisor  # (M, M)
        centred = difference - difference.mean(dim=0)
        one = torch.eye(num_rows, dtype=student.dtype, device=student.device)
        covariance = centred.T @ centred / (num_rows - 1) + tikhonov * one
        factor, _ = torch.linalg.cholesky_ex(covariance)  # which, other than cholesky, reads nothing from the device
        whitened = torch.linalg.solve_triangular(factor, difference.T, upper=False)  # a column for each row
    lengths: Tensor = torch.linalg.vector_norm(whitened, dim=0)
    return lengths.mean()


def _terms(
    student_logits: Tensor, teacher_logits: Tensor, form: Form, temperature: float, tikhonov: float
) -> tuple[Tensor, Tensor]:
    """The instance and the direction term."""
    if form not in get_args(Form):
        raise UserError(f"form {form!r} is {unknown_name(form, get_args(Form))}")
    instance = kd_loss(student_logits, teacher_logits, temperature=temperature)
    if form == "paper":
        return instance / temperature**2, skd_direction_loss(student_logits, teacher_logits, tikhonov=tikhonov)
    num_classes = student_logits.shape[1]
    return instance, skd_direction_loss(student_logits, teacher_logits, tikhonov=tikhonov, divisor=num_classes)


class StreamlinedKD(Method, name="skd_streamlined"):
    """The student learns the teacher's softened probabilities and the angles between its predictions of a batch.

    Streamlined KD, which its paper calls SKD; `skd` here is the structured KD of segmentation. instance_weight * T^2
    KL(softmax(z_t / T) || softmax(z_s / T)) + direction_weight * mean over i of sqrt(D_i^T S^-1 D_i) on (M, C) logits,
    D the difference of both sides' cosines between rows over C, S = cov(D) + tikhonov I: sum over classes and mean over
    rows; mean over rows. No label is read, so a bank and mixed labels do as for kd. Rows are related at the cost of
    M^3: batches of up to 8192 images; of masks `rows: local` and a `group_size`.

    Differs from: the paper's formula has neither T^2 nor the division by C, as torchdistill's re-implementation, which
    `form: paper` equals (golden skd_streamlined, but that tikhonov is not rounded to float32); the authors' release
    (StreamLined), which trained their students, has both, and so has the default. Its cosines without the division
    outweigh all else at the start, when logits are short. That release multiplies both terms, means already, by the
    share of images and of classes that the teacher is less sure of than the median, a half; here that half is in the
    weight 0.45 = 0.9 / 2 beside a task weight of 0.1. Its gradient is NaN where both sides are equal; ours is 0
    (test_a_student_that_equals_its_teacher_stays).
    """

    class Config(MethodConfig):
        """Settings of Streamlined KD."""

        form: Form = "released"  # T^2 on the instance term, and cosines over C; paper: neither
        temperature: float = Field(default=4.0, gt=0)  # T; StreamLined Distiller/SKD.py, torchdistill's example
        tikhonov: float = Field(default=0.1, gt=0)  # the same two
        instance_weight: float = Field(default=1.0, ge=0)  # the paper's sum has no weights
        direction_weight: float = Field(default=1.0, ge=0)  # likewise

    paper = Paper(
        authors="Jeong, Lee, Choi",
        title="Streamlined Knowledge Distillation",
        venue="CVPR",
        year=2026,
    )
    needs = frozenset({"teacher_logits"})
    rows = "related"
    default_loss = LossWeights(
        task=0.1, distill=0.45, source="StreamLined Distiller/SKD.py: ce 0.1, kd 0.9 times masks whose mean is a half"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "instance" and "direction", weighted."""
        assert pairing.teacher_logits is not None
        settings = self.config
        instance, direction = _terms(
            pairing.student_logits, pairing.teacher_logits, settings.form, settings.temperature, settings.tikhonov
        )
        return {
            "instance": settings.instance_weight * instance,
            "direction": settings.direction_weight * direction,
        }
