"""CIRKD: which places, in any image of the batch, each place is like."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper
from understudy.methods.losses.segmentation import cirkd_minibatch_loss
from understudy.methods.shared.maps import comparable_maps
from understudy.methods.shared.stages import StageConfig, StageMethod, StagePair, refuse_single_positions

__all__ = ["CIRKD"]


class CIRKD(StageMethod, name="cirkd"):
    """Every position of the student's map is like those positions, in all images of the batch, as in the teacher's.

    Over the ordered pairs of images, an image with itself among them: KL between softmaxes, at temperature T, of the
    cosine similarities of a position with all H * W positions of the other image; mean over pairs and positions,
    summed over the pairs of stages; by default one pair, the last. Weights 1 task and 1 distill, which the authors
    set beside KD with weight 1 (`method: [kd, cirkd]`). M^2 (H W)^2 similarities are held at once.

    Differs from: the paper's two memories, of pixels and of regions of earlier batches (weight 0.1 each), are left
    out; in the released code the queue of a class holds the first pixels of an image instead of those of the class.
    The first release related the images of all processes, as `rows: all` does, the last one those of one process
    (`rows: local`). Maps of two sizes are averaged down to the smaller.
    """

    class Config(StageConfig):
        """Settings of CIRKD."""

        temperature: float = Field(default=0.1, gt=0)  # T of the similarities; CIRKD's scripts

    paper = Paper(
        authors="Yang, Zhou, An, Jiang, Xu, Zhang",
        title="Cross-Image Relational Knowledge Distillation for Semantic Segmentation",
        venue="CVPR",
        year=2022,
        arxiv="2204.06986",
    )
    rows = "related"
    default_loss = LossWeights(task=1.0, distill=1.0, source="CIRKD train_cirkd.py: lambda_minibatch_pixel 1.0")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        refuse_single_positions(self.name, self.pairs)

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """The last pair."""
        return pairs[-1:]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "minibatch"."""
        losses = [
            cirkd_minibatch_loss(*comparable_maps(student, teacher), temperature=self.config.temperature)
            for student, teacher in zip(*self.features(pairing), strict=True)
        ]
        return {"minibatch": torch.stack(losses).sum()}
