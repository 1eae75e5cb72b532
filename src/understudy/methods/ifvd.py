"""IFVD: how far each position of a map is from the centre of its class."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper
from understudy.methods.losses.segmentation import ifvd_loss
from understudy.methods.shared.maps import comparable_maps
from understudy.methods.shared.stages import StageConfig, StageMethod, StagePair

__all__ = ["IFVD"]


class IFVD(StageMethod, name="ifvd"):
    """Within each class and image, the student's features vary around their centre as the teacher's do.

    mean (cos(f_s, c_s) - cos(f_t, c_t))^2 over rows and positions of (M, D, H, W) maps, c the mean feature of the
    position's class in its image, summed over the pairs of stages; by default one pair, the last. It needs a label
    for each pixel. Weights 1 task and 200 distill, the authors', beside KD with weight 10 averaged over classes, too;
    CIRKD's code takes 20 beside KD with weight 1 (`method: [kd, {name: ifvd, weight: 20}]`).

    Differs from: the adversarial part that both train beside it is left out. Positions without a label have both
    cosines 1 and so count as perfect, as in the released code (golden ifvd). Maps of two sizes are averaged down to
    the smaller.
    """

    class Config(StageConfig):
        """Settings of IFVD."""

    paper = Paper(
        authors="Wang, Zhou, Jiang, Bai, Xu",
        title="Intra-class Feature Variation Distillation for Semantic Segmentation",
        venue="ECCV",
        year=2020,
    )
    needs = frozenset({"label_map"})
    default_loss = LossWeights(task=1.0, distill=200.0, source="IFVD options: lambda_ifv 200")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.refuse_single_positions()

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """The last pair."""
        return pairs[-1:]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "ifvd"."""
        labels, num_classes = pairing.maps["labels"], self.context.num_classes
        losses = [
            ifvd_loss(*comparable_maps(student, teacher), labels, num_classes=num_classes)
            for student, teacher in zip(*self.features(pairing), strict=True)
        ]
        return {"ifvd": torch.stack(losses).sum()}
