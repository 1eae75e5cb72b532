"""KD: the teacher's softened class probabilities as targets."""

from __future__ import annotations

from typing import get_args

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Activation, Pairing
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper, comparable_logits
from understudy.utils.errors import UserError, unknown_name

__all__ = ["KD", "kd_loss"]


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    activation: Activation = "softmax",
) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened class probabilities to the student's.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2014, section 2:
    T^2 / M * sum over m, c of p_t (log p_t - log p_s), with p = softmax(z / T).

    Where every class is a yes or no of its own, p = sigmoid(z / T), each class adds the divergence of its two outcomes,
    p_t (log p_t - log p_s) + (1 - p_t) (log(1 - p_t) - log(1 - p_s)), as the term MLD of Yang et al., "Multi-Label
    Knowledge Distillation", ICCV 2023, at T = 1. Its gradient is that of binary cross-entropy with the teacher's
    probabilities as targets.

    Args:
        student_logits: (M, C) or (M, C, ...); half types are raised to float32, wider ones stay.
        teacher_logits: the same shape, no gradient flows into it.
        temperature: T > 0, softens both distributions. 4 is CIFAR's usual value, 1 ImageNet's.
        activation: what makes probabilities of logits; "sigmoid" for the dense heads of detectors and for several
            labels an image.

    Returns:
        Scalar in nats: sum over classes and over further axes (pixels), mean over the first axis. For a mean over
        pixels, lay them out as rows first.

    Raises:
        UserError: the shapes differ, the temperature is not above 0, or an unknown activation.
    """
    if activation not in get_args(Activation):
        raise UserError(f"activation {activation!r} is {unknown_name(activation, get_args(Activation))}")
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits, temperature)
    student, teacher = student_logits / temperature, teacher_logits / temperature
    if activation == "sigmoid":
        return (_of_outcomes(student, teacher) + _of_outcomes(-student, -teacher)) * temperature**2
    log_student, log_teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def _of_outcomes(student: Tensor, teacher: Tensor) -> Tensor:
    """What one outcome of each class adds: sum over classes, mean over the first axis."""
    return F.kl_div(F.logsigmoid(student), F.logsigmoid(teacher), reduction="batchmean", log_target=True)


class KD(Method, name="kd"):
    """The student learns the teacher's softened class probabilities, beside the labels.

    T^2 * KL(softmax(z_t / T) || softmax(z_s / T)) on (M, C) logits: sum over classes, mean over rows. Weights
    0.1 task and 0.9 distill with T = 4 are the field's on CIFAR-100; on ImageNet it takes 0.5, 0.5 and T = 1. Where a
    class is a sigmoid of its own (RetinaNet, FCOS, RT-DETR), each class adds the divergence of its yes and no.

    Differs from: nothing in value. mdistiller, RepDistiller and timm compute the same number (golden kd, kd_objective,
    kd_dist_kd); ModelOpt's default, a mean over all elements, is C times smaller. Sigmoids stay in log space, where
    the code of MLD (L2D) cuts probabilities at 1e-8; BCKD (ICCV 2023), for dense detectors, weighs each class by
    |p_t - p_s| besides, which this does not.
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
    activations = frozenset({"softmax", "sigmoid"})
    default_loss = LossWeights(task=0.1, distill=0.9, source="mdistiller engine/cfg.py: CE 0.1, KD 0.9 (CIFAR-100)")

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "kd"."""
        assert pairing.teacher_logits is not None
        return {
            "kd": kd_loss(
                pairing.student_logits,
                pairing.teacher_logits,
                temperature=self.config.temperature,
                activation=pairing.activation,
            )
        }
