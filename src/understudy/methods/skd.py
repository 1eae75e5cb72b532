"""SKD: the teacher's classes pixel by pixel, and how alike any two patches of its map are."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.outputs import LOGITS
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, MethodConfig, Paper
from understudy.methods.losses.dense import PatchForm, skd_pairwise_loss, skd_pixelwise_loss
from understudy.methods.shared.maps import as_map, comparable_maps
from understudy.methods.shared.stages import StageConfig, StageMethod, StagePair
from understudy.utils.errors import UserError

__all__ = ["SKD"]

_OUTPUT = f"output.{LOGITS}"


class SKD(StageMethod, name="skd"):
    """The student says what the teacher says of every pixel, and finds the same patches alike.

    pixel_weight * cross-entropy of the logits with the teacher's probabilities, sum over classes, mean over rows and
    positions; and pair_weight * mean (a_s - a_t)^2, a the cosine similarities of any two max-pooled patches of a
    (M, D, H, W) map, summed over the pairs of stages; by default one pair, the last. Weights 1 task and 1 distill,
    the authors' 10 and 1 within. `form: cirkd` has patches of 2 x 2 positions, however large the map; CIRKD's code
    takes pair_weight 10 beside KD with weight 1 (`method: [kd, {name: skd, form: cirkd, pixel_weight: 0,
    pair_weight: 10}]`).

    Differs from: the third part, holistic distillation by a discriminator, is left out: it is trained against the
    student by an optimizer of its own, which no method here has; compare with the rows of their table that lack it.
    The released pixel-wise loss is a sum over the images of a batch, ours a mean, so that it means the same
    whatever the batch (golden skd_pixelwise, skd_pairwise, skd_pairwise_cirkd). Maps of two sizes are averaged down
    to the smaller.
    """

    class Config(StageConfig):
        """Settings of SKD."""

        pixel_weight: float = Field(default=10.0, ge=0)  # lambda_pi of the authors; 0: features alone
        pair_weight: float = Field(default=1.0, ge=0)  # lambda_pa of the authors
        scale: float = Field(default=0.5, gt=0, le=1)  # size of a patch as a share of the map; form: share
        form: PatchForm = "share"  # patches as the authors', or "cirkd": 2 x 2 positions, norms with gradient

    paper = Paper(
        authors="Liu, Chen, Liu, Qin, Luo, Wang",
        title="Structured Knowledge Distillation for Semantic Segmentation",
        venue="CVPR",
        year=2019,
        arxiv="1903.04197",
    )
    default_loss = LossWeights(
        task=1.0, distill=1.0, source="structured_knowledge_distillation: lambda_pi 10, lambda_pa 1, its settings"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.refuse_single_positions()
        if config.pixel_weight and context.student.num_classes != context.teacher.num_classes:
            raise UserError(
                f"method {self.name!r} reads the teacher's logits, but the teacher has {context.teacher.num_classes} "
                f"classes and the student {context.student.num_classes}; set method.pixel_weight=0 to compare "
                "features alone"
            )

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The stages and, where they are compared, the logits."""
        assert isinstance(config, cls.Config)
        taps = super().taps_for(config)
        also = (_OUTPUT,) if config.pixel_weight else ()
        return Taps(student=(*taps.student, *also), teacher=(*taps.teacher, *also))

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """The last pair."""
        return pairs[-1:]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "pixel", where it has a weight, and "pair"."""
        settings = self.config
        losses = [
            skd_pairwise_loss(*comparable_maps(student, teacher), scale=settings.scale, form=settings.form)
            for student, teacher in zip(*self.features(pairing), strict=True)
        ]
        terms = {"pair": settings.pair_weight * torch.stack(losses).sum()}
        if settings.pixel_weight:
            student, teacher = (as_map(side[_OUTPUT]) for side in (pairing.student_features, pairing.teacher_features))
            ours, theirs = comparable_maps(student, teacher, channels_agree=True)
            terms["pixel"] = settings.pixel_weight * skd_pixelwise_loss(ours, theirs) / len(ours)
        return terms
