"""DSD: how attention changes from map to map, and which classes are looked for in the same places."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper, at_least_float32
from understudy.methods.losses.segmentation import class_similarity_loss, residual_attention_loss
from understudy.methods.shared.maps import as_map, comparable_maps
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError

__all__ = ["DSD"]


class DSD(StageMethod, name="dsd"):
    """The student's attention changes from one map to another, and its classes share places, as the teacher's do.

    residual_weight * mean (R_s - R_t)^2 over rows, positions and pairs of maps, R the difference of two maps'
    attentions, brought to length 1; and class_weight * mean (S_s - S_t)^2, S the (C, C) products of softmaxes over
    the positions of the last map, which must be logits. In CIRKD's code the maps are the auxiliary logits, the
    features after ASPP and the logits; here they are those that `student_stages` and `teacher_stages` name, by
    default all stages after the stem. Where the last pair has no classes in common, set `class_weight: 0`.

    Differs from: CIRKD's code wants maps of one size; here larger ones are averaged down to the smallest. Equal
    elsewhere (golden dsd).
    """

    class Config(StageConfig):
        """Settings of DSD."""

        residual_weight: float = Field(default=1000.0, ge=0)  # lambda_psd of CIRKD's script
        class_weight: float = Field(default=10.0, ge=0)  # lambda_csd of CIRKD's script; 0 without maps of logits
        exponent: int = Field(default=2, ge=1)  # p of the attention
        tau: float = Field(default=4.0, gt=0)  # temperature of the softmax over positions

    paper = Paper(
        authors="Feng, Sun, Diao, Li, Gao",
        title="Double Similarity Distillation for Semantic Image Segmentation",
        venue="IEEE TIP",
        year=2021,
        arxiv="2107.08591",
    )
    default_loss = LossWeights(task=1.0, distill=1.0, source="CIRKD train_dsd.sh: lambda_psd 1000, lambda_csd 10")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.refuse_single_positions()
        if len(self.pairs) < 2:
            raise UserError(
                f"method {self.name!r} compares how attention changes between maps, and there is one pair alone "
                f"({self.pairs[0].student}); name two or more places in method.student_stages and teacher_stages"
            )
        last = self.pairs[-1]
        if config.class_weight and last.student_shape.channels != last.teacher_shape.channels:
            raise UserError(
                f"method {self.name!r} compares the classes of the last maps, but {last.student} is "
                f"{last.student_shape} and the teacher's {last.teacher} {last.teacher_shape}; name logits of the same "
                "classes last in method.student_stages and teacher_stages, or set method.class_weight=0"
            )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "psd" and, where it has a weight, "csd"."""
        settings, (student, teacher) = self.config, self.features(pairing)
        ours, theirs = _at_one_size(student, teacher)
        residual = residual_attention_loss(ours, theirs, exponent=settings.exponent)
        terms = {"psd": settings.residual_weight * residual}
        if settings.class_weight:
            last = comparable_maps(student[-1], teacher[-1], channels_agree=True)
            terms["csd"] = settings.class_weight * class_similarity_loss(*last, tau=settings.tau)
        return terms


def _at_one_size(student: list[Tensor], teacher: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """All maps of both sides, averaged down to the smallest height and width among them."""
    sizes = [tuple(maps.shape[2:]) for maps in map(as_map, [*student, *teacher])]
    size = min(height for height, _ in sizes), min(width for _, width in sizes)
    ours, theirs = (
        [F.adaptive_avg_pool2d(at_least_float32(as_map(maps)), size) for maps in side] for side in (student, teacher)
    )
    return ours, theirs
