"""CTKD: KD at a temperature that is learnt against the student, harder by the epoch."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper, at_least_float32
from understudy.methods.kd import kd_loss

__all__ = ["CTKD", "ctkd_loss", "reversal_in", "with_reversed_gradient"]


def ctkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    parameter: Tensor,
    *,
    lowest: float = 1.0,
    span: float = 20.0,
    reversal: float = 1.0,
) -> Tensor:
    """KD at the temperature lowest + span * sigmoid(parameter), whose gradient is turned round.

    Li et al., "Curriculum Temperature for Knowledge Distillation", AAAI 2023: the student descends on the loss, while
    the temperature climbs it.

    Args:
        student_logits: (M, C) or (M, C, ...); half types are raised to float32, wider ones stay.
        teacher_logits: the same shape, no gradient flows into it.
        parameter: a scalar.
        lowest: temperature that is approached from above, > 0.
        span: how far above it the temperature may rise.
        reversal: lambda; the parameter's gradient is multiplied by -lambda.

    Returns:
        Scalar in nats: sum over classes, mean over the first axis, times T^2.

    Raises:
        UserError: the shapes differ.
    """
    temperature = lowest + span * with_reversed_gradient(at_least_float32(parameter), reversal).sigmoid()
    # A tensor where kd_loss takes a number: it only divides by it and multiplies.
    return kd_loss(student_logits, teacher_logits, temperature=temperature)  # type: ignore[arg-type]


def with_reversed_gradient(value: Tensor, reversal: float) -> Tensor:
    """The same value; its gradient is multiplied by -reversal (Ganin and Lempitsky, ICML 2015)."""
    return value.detach() - reversal * (value - value.detach())


def reversal_in(epoch: int, num_epochs: int, *, first: float = 0.0, last: float = 1.0) -> float:
    """Lambda in an epoch counted from 1: half a cosine from `first` at epoch 0 to `last` at `num_epochs` and after."""
    return last + (first - last) * (1 + math.cos(math.pi * min(epoch / num_epochs, 1.0))) / 2


class CTKD(Method, name="ctkd"):
    """The student learns the teacher's softened probabilities at a temperature that learns to make it hard for it.

    T^2 * KL(softmax(z_t / T) || softmax(z_s / T)) on (M, C) logits, T = 1 + 20 sigmoid(theta): sum over classes, mean
    over rows. Theta is one number (the paper's global temperature), first 1, so that T is 15.6; it is trained by the
    student's optimizer, on its gradient times -lambda, so that it climbs the loss. Lambda rises from 0 to 1 over the
    first 10 epochs, by half a cosine and whole epochs. Weights 0.1 task and 0.9 distill are the authors' on CIFAR-100;
    on ImageNet 1 and 1, and 5 epochs.

    Differs from: nothing in value; loss, both gradients and lambda equal theirs (golden ctkd). The instance-wise
    temperature, which a small network makes of both sides' logits, is not there. The weight decay applies to theta, as
    there; `update.decay_norm_and_bias: false` leaves it out.
    """

    class Config(MethodConfig):
        """Settings of CTKD."""

        lowest_temperature: float = Field(default=1.0, gt=0)  # CTKD scripts/run_cifar_distill.sh: --t_start 1
        temperature_span: float = Field(default=20.0, gt=0)  # T stays below lowest + span; theirs: --t_end 20
        curriculum_epochs: int = Field(default=10, ge=1)  # lambda has risen by then; --decay_loops, 5 on ImageNet
        reversal: float = Field(default=1.0, ge=0)  # lambda after that; theirs: --decay_min -1

    paper = Paper(
        authors="Li, Li, Yang, Zhao, Song, Luo, Li, Yang",
        title="Curriculum Temperature for Knowledge Distillation",
        venue="AAAI",
        year=2023,
        arxiv="2211.16231",
    )
    needs = frozenset({"teacher_logits"})
    default_loss = LossWeights(task=0.1, distill=0.9, source="CTKD scripts/run_cifar_distill.sh: -r 0.1 -a 0.9")

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.temperature_parameter = nn.Parameter(torch.ones(1))
        self._reversal: float = config.reversal

    def set_epoch(self, epoch: int, num_epochs: int) -> None:
        """Let lambda be as large as it is in this epoch."""
        self._reversal = reversal_in(epoch, self.config.curriculum_epochs, last=self.config.reversal)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "kd"."""
        assert pairing.teacher_logits is not None
        loss = ctkd_loss(
            pairing.student_logits,
            pairing.teacher_logits,
            self.temperature_parameter[0],
            lowest=self.config.lowest_temperature,
            span=self.config.temperature_span,
            reversal=self._reversal,
        )
        return {"kd": loss}
