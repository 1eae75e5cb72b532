"""KD: the teacher's softened class probabilities as targets."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits

__all__ = ["KD", "kd_loss"]


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened class probabilities to the student's.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2014, section 2:
    T^2 / M * sum over m, c of p_t (log p_t - log p_s), with p = softmax(z / T).

    Args:
        student_logits: (M, C) or (M, C, ...); half types are raised to float32, wider ones stay.
        teacher_logits: the same shape, no gradient flows into it.
        temperature: T > 0, softens both distributions. 4 is CIFAR's usual value, 1 ImageNet's.

    Returns:
        Scalar in nats: sum over classes and over further axes (pixels), mean over the first axis. For a mean over
        pixels, lay them out as rows first.

    Raises:
        UserError: the shapes differ.
    """
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits)
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


class KD(Method, name="kd"):
    """The student learns the teacher's softened class probabilities, beside the labels.

    T^2 * KL(softmax(z_t / T) || softmax(z_s / T)) on (M, C) logits: sum over classes, mean over rows. Weights
    0.1 task and 0.9 distill with T = 4 are the field's on CIFAR-100; on ImageNet it takes 0.5, 0.5 and T = 1.

    Differs from: nothing in value. mdistiller, RepDistiller and timm compute the same number (golden kd, kd_objective,
    kd_dist_kd); ModelOpt's default, a mean over all elements, is C times smaller.
    """

    class Config(MethodConfig):
        """Settings of KD."""

        temperature: float = Field(default=4.0, gt=0)  # T; mdistiller engine/cfg.py, its ImageNet recipes take 1

    paper = Paper(
        authors="Hinton, Vinyals, Dean",
        title="Distilling the Knowledge in a Neural Network",
        venue="NIPS Deep Learning Workshop",
        year=2014,
        arxiv="1503.02531",
    )
    needs = frozenset({"teacher_logits"})
    default_loss = LossWeights(task=0.1, distill=0.9, source="mdistiller engine/cfg.py: CE 0.1, KD 0.9 (CIFAR-100)")

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "kd"."""
        assert pairing.teacher_logits is not None
        return {"kd": kd_loss(pairing.student_logits, pairing.teacher_logits, temperature=self.config.temperature)}
