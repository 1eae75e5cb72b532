"""DeiT: a distillation token's head learns from the teacher, the class token's from the labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.heads import DISTILLED_HEAD
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper
from understudy.methods.losses.token import deit_hard_loss, deit_soft_loss

__all__ = ["DeiT"]


class DeiT(Method, name="deit"):
    """The distillation token's head learns the class that the teacher names, or its softened probabilities.

    hard: cross-entropy with the teacher's first largest logit; soft: tau^2 * KL(p_t || p_s) over M * C elements, both
    on the (M, C) logits of the head "distilled". The task loss is on the class token's head, and the mean of both
    heads' logits is deployed. Weights (1 - alpha) and alpha are 0.5 and 0.5 (hard), 0.9 and 0.1 (soft). The teacher
    sees the student's own images, mixed where they are mixed. A student with several tokens, or with none, says where
    it learns: `on: {distilled: 0.5, distilled2: 0.5}`, `on: main`.

    Differs from: nothing in value. The paper's equation 2 sums over classes, the released code, and so do we, divides
    by M * C: with 1,000 classes the soft term is a thousandth of it (golden deit_soft, deit_two_heads).
    """

    class Config(MethodConfig):
        """Settings of DeiT's distillation."""

        kind: Literal["hard", "soft"] = "hard"  # the paper's better one
        temperature: float = Field(default=3.0, gt=0)  # of soft: tau; the paper's

    paper = Paper(
        authors="Touvron, Cord, Douze, Massa, Sablayrolles, Jégou",
        title="Training data-efficient image transformers & distillation through attention",
        venue="ICML",
        year=2021,
        arxiv="2012.12877",
    )
    needs = frozenset({"teacher_logits"})
    default_loss = LossWeights(task=0.5, distill=0.5, source="deit main.py: --distillation-alpha 0.5")

    @classmethod
    def reads(cls, config: MethodConfig) -> dict[str, float]:
        """The distillation token's head, unless another is named."""
        return {DISTILLED_HEAD: 1.0} if config.on is None else dict(config.on)

    @classmethod
    def default_loss_for(cls, config: MethodConfig) -> LossWeights:
        """1 - alpha and alpha: 0.5 hard, 0.1 soft."""
        assert isinstance(config, cls.Config)
        return cls.default_loss if config.kind == "hard" else LossWeights(0.9, 0.1, source="the paper, section 5.2")

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "deit"."""
        assert pairing.teacher_logits is not None
        student, teacher, settings = pairing.student_logits, pairing.teacher_logits, self.config
        if settings.kind == "hard":
            return {"deit": deit_hard_loss(student, teacher)}
        return {"deit": deit_soft_loss(student, teacher, temperature=settings.temperature)}
