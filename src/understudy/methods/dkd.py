"""DKD: what the teacher says of the target class and what it says of the others, weighed apart."""

from __future__ import annotations

from types import MappingProxyType

from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper
from understudy.methods.shared.decoupled import decoupled

__all__ = ["DKD", "dkd_loss"]


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """Decoupled knowledge distillation: alpha * TCKD + beta * NCKD.

    Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, eq. 7. Scaled by T^2 as in their code. One row gives
    KD = TCKD + (1 - p_t) * NCKD, p_t the teacher's probability of the label (eq. 6).

    Args:
        student_logits: (M, C), C >= 3; half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        labels: (M,) class numbers in 0..C-1; rows of -1 (unlabelled) count neither in the sum nor in the mean.
        alpha: weight of the target-class term.
        beta: weight of the non-target-class term.
        temperature: T > 0, softens both distributions.

    Returns:
        Scalar mean over the labelled rows, in nats; 0 where no row is labelled.

    Raises:
        UserError: the shapes differ, a temperature is not above 0, or labels are not one class number per row.
    """
    tckd, nckd = _terms(student_logits, teacher_logits, labels, temperature)
    return alpha * tckd + beta * nckd


def _terms(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD, each times T^2, mean over labelled rows."""
    rows = decoupled(student_logits, teacher_logits, labels, temperature=temperature, what="dkd")
    return rows.mean(rows.target) * temperature**2, rows.mean(rows.others) * temperature**2


class DKD(Method, name="dkd"):
    """Target-class knowledge and non-target-class knowledge of the teacher, weighed apart.

    alpha * TCKD + beta * NCKD on (M, C) logits and (M,) labels, both times T^2: sum over classes, mean over labelled
    rows. TCKD is the divergence between (p_t, 1 - p_t) of teacher and student, NCKD the one between their
    distributions over the other classes. Defaults alpha 1, beta 8, T 4 and 20 warm-up epochs with task weight 1.
    The authors' beta per pair: 2 for resnet56-resnet20 and resnet110-resnet32, 6 for vgg and wrn pairs, 8 else; on
    ImageNet T 1, warm-up 1, beta 0.5 (resnet34-resnet18) or 2 (resnet50-mobilenetv1).

    Differs from: mdistiller takes the logarithm of probabilities and removes the label by subtracting 1000 from its
    logit, which is infinite at confident students; here the label is left out and everything stays in log space
    (test_dkd_is_finite_where_a_probability_underflows). Equal elsewhere to 1e-12 in float64 (golden dkd).
    Unlabelled rows (-1) are left out; mdistiller knows none.
    Rows whose classes are a sigmoid each (RetinaNet, FCOS, RT-DETR) are refused: what a class has beside the others,
    and what is left for them where the label is not, exist only where all sum to 1. kd takes such rows.
    """

    class Config(MethodConfig):
        """Settings of DKD."""

        alpha: float = Field(default=1.0, ge=0)  # weight of TCKD; 1 in every recipe of mdistiller
        beta: float = Field(default=8.0, ge=0)  # weight of NCKD; mdistiller engine/cfg.py
        temperature: float = Field(default=4.0, gt=0)  # T; mdistiller engine/cfg.py

    paper = Paper(
        authors="Zhao, Cui, Song, Qiu, Liang",
        title="Decoupled Knowledge Distillation",
        venue="CVPR",
        year=2022,
        arxiv="2203.08679",
    )
    needs = frozenset({"teacher_logits", "hard_labels"})
    streams = MappingProxyType({"tckd": "target", "nckd": "non_target"})
    min_classes = 3  # with two classes there is one other class, and NCKD is identically 0
    default_loss = LossWeights(
        task=1.0, distill=1.0, warmup_epochs=20, source="mdistiller engine/cfg.py: CE 1.0, warm-up 20"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "tckd" and "nckd", weighted by alpha and beta."""
        assert pairing.teacher_logits is not None
        tckd, nckd = _terms(pairing.student_logits, pairing.teacher_logits, pairing.labels, self.config.temperature)
        return {"tckd": self.config.alpha * tckd, "nckd": self.config.beta * nckd}
