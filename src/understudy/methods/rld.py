"""RLD: the teacher's confidence and its ranking of the classes, without its mistakes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits, refuse_all_but_rows
from understudy.methods.logit_std import standardised
from understudy.methods.shared.logits import class_and_rest, mean_over_labelled, one_class_a_row

__all__ = ["RLD", "rld_loss"]


def rld_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    alpha_temperature: float = 1.0,
    standardises: bool = False,
) -> Tensor:
    """Refined logit distillation: alpha * sample confidence + beta * masked correlation.

    Sun et al., "Knowledge Distillation with Refined Logits", ICCV 2025. Sample confidence is
    T_a^2 KL((p_t, 1 - p_t) || (p_s, 1 - p_s)) at temperature T_a, p_t the teacher's probability of the class that it
    finds most likely, p_s the student's of the label. Masked correlation is T^2 KL between both softmaxes at
    temperature T over the classes to which the teacher gives less than to the label.

    Args:
        student_logits: (M, C), C >= 3; half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        labels: (M,) class numbers in 0..C-1; rows of -1 (unlabelled) count neither in the sum nor in the mean.
        alpha: weight of sample confidence.
        beta: weight of masked correlation.
        temperature: T > 0.
        alpha_temperature: T_a > 0.
        standardises: whether each row of either side is brought to mean 0 and deviation 1 first.

    Returns:
        Scalar: sum over classes, mean over the labelled rows, in nats; 0 where no row is labelled. A student that
        equals its teacher has no masked correlation, and no sample confidence where the teacher is right; where the
        teacher is wrong, it is asked to give the label what the teacher gives its own choice.

    Raises:
        UserError: the shapes differ, or labels are not one class number per row.
    """
    scd, mcd = _terms(student_logits, teacher_logits, labels, temperature, alpha_temperature, standardises)
    return alpha * scd + beta * mcd


def _terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    alpha_temperature: float,
    standardises: bool,
) -> tuple[Tensor, Tensor]:
    """Sample confidence and masked correlation, each times its temperature squared, mean over labelled rows."""
    student, teacher = comparable_logits(student_logits, teacher_logits, temperature, alpha_temperature)
    refuse_all_but_rows("rld", student)
    target, is_labelled = one_class_a_row(labels, student, method="rld")
    if standardises:
        student, teacher = standardised(student), standardised(teacher)
    confidence, _ = class_and_rest(student / alpha_temperature, target)
    teachers, _ = class_and_rest(teacher / alpha_temperature, teacher.argmax(dim=1))
    scd = _divergences(confidence, teachers) * alpha_temperature**2

    is_masked = teacher >= teacher.gather(1, target[:, None])  # (M, C), the label among them
    # Filled with what exp makes 0 of in any dtype, and not with -inf: where all are masked, both sides are uniform.
    lowest = torch.finfo(student.dtype).min / 2
    log_student, log_teacher = (
        F.log_softmax((side / temperature).masked_fill(is_masked, lowest), dim=1) for side in (student, teacher)
    )
    mcd = _divergences(log_student, log_teacher) * temperature**2
    return mean_over_labelled(scd, is_labelled), mean_over_labelled(mcd, is_labelled)


def _divergences(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """(M,) KL of each row of log probabilities, in nats."""
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)


class RLD(Method, name="rld"):
    """The student learns how sure the teacher is and how it ranks the less likely classes, but not its mistakes.

    alpha * SCD + beta * MCD on (M, C) logits and (M,) labels: sum over classes, mean over labelled rows. SCD compares
    how likely the teacher finds its own choice with how likely the student finds the label, MCD the softmaxes over the
    classes that the teacher ranks below the label; where the label is its last, there is none and MCD is 0. Defaults
    alpha 1, beta 8, T 4 and 20 warm-up epochs with task weight 1 are the authors' for CIFAR-100, as is T 1 for SCD;
    their command for vgg13-vgg8 sets `alpha_temperature: 4` (--same-t). `standardises: true` is their variant on
    z-scores, as in `logit_std`.

    Differs from: the authors' code forms probabilities, whose logarithm is infinite at confident students, and fills
    masked classes with -1e9, which float16 cannot hold; here everything stays in log space, in at least float32
    (test_rld_is_finite_where_a_probability_underflows). Equal elsewhere to 1e-12 in float64 (golden rld). Unlabelled
    rows (-1) are left out; their code knows none. Mixed labels are refused, as by dkd: which class the teacher is
    mistaken about is not said. So are rows whose classes are a sigmoid each.
    """

    class Config(MethodConfig):
        """Settings of RLD."""

        alpha: float = Field(default=1.0, ge=0)  # weight of SCD; RLD engine/cfg.py
        beta: float = Field(default=8.0, ge=0)  # weight of MCD; RLD engine/cfg.py
        temperature: float = Field(default=4.0, gt=0)  # T of MCD; RLD engine/cfg.py
        alpha_temperature: float = Field(default=1.0, gt=0)  # T of SCD; RLD engine/cfg.py: ALPHA_T 1
        standardises: bool = False  # both sides' rows to z-scores first; RLD engine/cfg.py: LOGIT_STAND

    paper = Paper(
        authors="Sun, Chen, Lyu, Chen, Chen, Wang",
        title="Knowledge Distillation with Refined Logits",
        venue="ICCV",
        year=2025,
        arxiv="2408.07703",
    )
    needs = frozenset({"teacher_logits", "hard_labels"})
    min_classes = 3  # with two classes at most one ranks below the label, and MCD is identically 0
    default_loss = LossWeights(
        task=1.0, distill=1.0, warmup_epochs=20, source="RLD engine/cfg.py: CE_WEIGHT 1.0, WARMUP 20"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "scd" and "mcd", weighted by alpha and beta."""
        assert pairing.teacher_logits is not None
        settings = self.config
        scd, mcd = _terms(
            pairing.student_logits,
            pairing.teacher_logits,
            pairing.labels,
            settings.temperature,
            settings.alpha_temperature,
            settings.standardises,
        )
        return {"scd": settings.alpha * scd, "mcd": settings.beta * mcd}
