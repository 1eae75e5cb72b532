"""Logit standardisation: KD between z-scores, so that student and teacher need not agree on a scale."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits
from understudy.methods.kd import kd_loss

__all__ = ["LogitStandardisation", "logit_std_loss", "standardised"]

_EPS = 1e-7  # the authors'


def standardised(logits: Tensor) -> Tensor:
    """Rows of (M, C) logits, float32 or wider, to mean 0 and standard deviation 1 (C - 1 in its denominator)."""
    return (logits - logits.mean(dim=1, keepdim=True)) / (_EPS + logits.std(dim=1, keepdim=True))


def logit_std_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 2.0) -> Tensor:
    """KD between logits that are standardised row by row.

    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, algorithm 1:
    T^2 * KL(softmax(Z(z_t) / T) || softmax(Z(z_s) / T)), Z(z) = (z - mean) / (1e-7 + std).

    Args:
        student_logits: (M, C); half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        temperature: T > 0, the paper's base temperature.

    Returns:
        Scalar in nats: sum over classes, mean over rows. The same for a * z + b in place of z, a > 0, on either side.

    Raises:
        UserError: the shapes differ.
    """
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits, temperature)
    return kd_loss(standardised(student_logits), standardised(teacher_logits), temperature=temperature)


class LogitStandardisation(Method, name="logit_std"):
    """The student learns the teacher's class probabilities after both sides' logits are standardised.

    T^2 * KL(softmax(Z(z_t) / T) || softmax(Z(z_s) / T)) on (M, C) logits, Z the z-score of each row: sum over classes,
    mean over rows. Defaults T 2 and weight 9 beside a task weight of 0.1 are the authors' on CIFAR-100 (T 3 for some
    pairs, such as vgg13-vgg8). With T 1 and standardisation on ImageNet they keep mdistiller's 0.5 and 0.5.

    Differs from: nothing in value. The gradient at a uniform student row is large, 1e7 / T times that of KD, there as
    here; it stays finite (test_a_uniform_student_row_is_finite).
    """

    class Config(MethodConfig):
        """Settings of logit standardisation."""

        temperature: float = Field(default=2.0, gt=0)  # T; README's commands: --base-temp 2

    paper = Paper(
        authors="Sun, Ren, Li, Wang, Cao",
        title="Logit Standardization in Knowledge Distillation",
        venue="CVPR",
        year=2024,
        arxiv="2403.01427",
    )
    needs = frozenset({"teacher_logits"})
    default_loss = LossWeights(
        task=0.1, distill=9.0, source="logit-standardization-KD README: --kd-weight 9; mdistiller's CE 0.1 stays"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "kd"."""
        assert pairing.teacher_logits is not None
        loss = logit_std_loss(pairing.student_logits, pairing.teacher_logits, temperature=self.config.temperature)
        return {"kd": loss}
