"""Co-advise: each distillation token learns from a teacher of its own, whose inductive biases differ."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.heads import DISTILLED_HEAD
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper
from understudy.methods.kd import kd_loss

__all__ = ["CoAdvise"]


class CoAdvise(Method, name="co_advise"):
    """Each distillation token learns the class probabilities of a teacher of its own kind.

    CE(z_class, y) + sum over tokens of T^2 * KL(p_t || p_s), on (M, C) logits: sum over classes, mean over rows, all
    weights 1. Two tokens by default: "distilled" from the recipe's teacher, "distilled2" from the one in
    `teacher.also.distilled2`; with one teacher both learn from it. The authors' student is
    `understudy:co_advise_tiny`, their teachers a RegNetY-040 of convolutions and a RedNet-101 of involutions. What is
    deployed is the mean of all heads' logits.

    Differs from: nothing in value (golden co_advise). The released code leaves out all distillation where it
    accumulates gradients; here it does not matter how a step is divided.
    """

    class Config(MethodConfig):
        """Settings of Co-advise."""

        temperature: float = Field(default=1.0, gt=0)  # T; main.py, train_one_epoch

    paper = Paper(
        authors="Ren, Gao, Hua, Xue, Tian, He, Zhao",
        title="Co-advise: Cross Inductive Bias Distillation",
        venue="CVPR",
        year=2022,
        arxiv="2106.12378",
    )
    needs = frozenset({"teacher_logits"})
    default_loss = LossWeights(task=1.0, distill=1.0, source="co-advise main.py: ce_loss + conv_kd_loss + inv_kd_loss")

    @classmethod
    def reads(cls, config: MethodConfig) -> dict[str, float]:
        """Both distillation tokens' heads, unless others are named."""
        return {DISTILLED_HEAD: 1.0, f"{DISTILLED_HEAD}2": 1.0} if config.on is None else dict(config.on)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "co_advise" of one token."""
        assert pairing.teacher_logits is not None
        loss = kd_loss(pairing.student_logits, pairing.teacher_logits, temperature=self.config.temperature)
        return {"co_advise": loss}
