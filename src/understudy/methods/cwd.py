"""CWD: every channel of a map as a distribution over places, which the student's channels learn to be."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper
from understudy.methods.losses.dense import cwd_loss
from understudy.methods.shared.maps import as_map, comparable_maps
from understudy.methods.shared.stages import StageConfig, StageMethod, StagePair

__all__ = ["CWD"]


class CWD(StageMethod, name="cwd"):
    """Every channel of the student attends to the places that the teacher's channel attends to.

    T^2 * KL between softmaxes over the H * W positions of each channel of (M, D, H, W) maps, mean over rows and
    channels, summed over the pairs of stages; by default one pair, the last. A 1x1 convolution brings the student to
    the teacher's channels where they differ. Weights 1 task and 3 distill, the authors' for the logits of a
    segmenter (`student_stages: [output.logits]`, and the teacher's likewise); on features they take 50.

    Differs from: CIRKD's code divides by the channels that the student had before its convolution, the paper and we
    by those that are compared (golden cwd_cirkd). Maps of two sizes are averaged down to the smaller.
    """

    class Config(StageConfig):
        """Settings of CWD."""

        norm_type: Literal["channel", "spatial"] = "channel"  # softmax over places; "spatial": over channels
        temperature: float = Field(default=4.0, gt=0)  # T; 4 in the authors' command

    paper = Paper(
        authors="Shu, Liu, Gao, Yan, Shen",
        title="Channel-wise Knowledge Distillation for Dense Prediction",
        venue="ICCV",
        year=2021,
        arxiv="2011.13256",
    )
    default_loss = LossWeights(
        task=1.0, distill=3.0, source="TorchDistiller run_distiller.sh: lambda_cwd 3 on logits, 50 on features"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.refuse_single_positions()
        self.adapters = nn.ModuleList(_adapter(pair) for pair in self.pairs)

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """The last pair."""
        return pairs[-1:]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "cwd"."""
        settings = self.config
        losses = []
        for adapter, student, teacher in zip(self.adapters, *self.features(pairing), strict=True):
            ours, theirs = comparable_maps(adapter(as_map(student)), teacher, channels_agree=True)
            losses.append(cwd_loss(ours, theirs, norm_type=settings.norm_type, temperature=settings.temperature))
        return {"cwd": torch.stack(losses).sum()}


def _adapter(pair: StagePair) -> nn.Module:
    """A 1x1 convolution to the teacher's channels; nothing where the student has as many."""
    ours, theirs = pair.student_shape.channels, pair.teacher_shape.channels
    return nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)
