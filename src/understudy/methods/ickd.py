"""ICKD: how alike the teacher's channels are to one another."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper, at_least_float32
from understudy.methods.shared.maps import as_map, full_precision
from understudy.methods.shared.stages import StageConfig, StageMethod, StagePair
from understudy.utils.errors import UserError, unknown_name

__all__ = ["ICKD", "Reduction", "channel_correlation", "embedding", "ickd_loss"]

Reduction = Literal["cifar", "imagenet"]


def ickd_loss(embedded: Tensor, teacher_features: Tensor, *, reduction: Reduction = "cifar") -> Tensor:
    """Squared difference of the two channel-by-channel correlation matrices.

    Liu et al., "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation", ICCV 2021:
    |G_s - G_t|_F^2 with G the (D, D) products of a map's channels, here with rows of length 1.

    Args:
        embedded: (M, D, H_s, W_s) student map with the teacher's channels; half types are raised to float32.
        teacher_features: (M, D, H_t, W_t), no gradient flows into it. The sizes may differ: positions are summed over.
        reduction: "cifar" divides the sum by M D, "imagenet" by M^2 D; the authors' two codes.

    Returns:
        Scalar; with "cifar" at most 4.

    Raises:
        UserError: the rows or the channels differ, or an unknown reduction.
    """
    if reduction not in get_args(Reduction):
        raise UserError(f"reduction {reduction!r} is {unknown_name(reduction, get_args(Reduction))}")
    if embedded.shape[:2] != teacher_features.shape[:2]:
        raise UserError(
            f"features of {tuple(embedded.shape)} and {tuple(teacher_features.shape)} have other rows or channels; "
            "embed the student's into the teacher's channels first"
        )
    difference = channel_correlation(embedded) - channel_correlation(teacher_features.detach())
    loss = difference.square().sum(dim=(1, 2)).mean() / embedded.shape[1]
    return loss if reduction == "cifar" else loss / len(embedded)


def channel_correlation(features: Tensor) -> Tensor:
    """(M, D, D): products of every channel of (M, D, H, W) or (M, D) with every other, each row of length 1."""
    channels = at_least_float32(as_map(features)).flatten(2)
    with full_precision(channels):
        return F.normalize(channels @ channels.mT, dim=2)


def embedding(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution without bias, then batch norm: (M, in_channels, H, W) to (M, out_channels, H, W)."""
    conv, norm = nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
    return nn.Sequential(OrderedDict(conv=conv, bn=norm))


class ICKD(StageMethod, name="ickd"):
    """The student's channels, embedded, correlate with one another as the teacher's do.

    Sum over pairs of stages of |G_s - G_t|_F^2 / (M D), G the (D, D) correlation of the channels of an (M, D, H, W) map
    with rows of length 1, after a 1x1 convolution and batch norm on the student's side; by default one pair, the last
    stages. Weights 1 task and 2.5 distill.

    Differs from: as the note to the golden case has it, the paper neither normalises the rows nor divides by less
    than D^2; both official codes, followed here, do (golden ickd). The ImageNet code divides by M once more:
    `reduction: imagenet` (golden ickd_imagenet); its loss then depends on the batch size. The official code also
    builds an embedding of the teacher that it never uses.
    """

    class Config(StageConfig):
        """Settings of ICKD."""

        reduction: Reduction = "cifar"

    paper = Paper(
        authors="Liu, Huang, Lin, Xie, Wang, Chang, Liang",
        title="Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation",
        venue="ICCV",
        year=2021,
        arxiv="2202.03680",
    )
    rows = "related"  # batch norm in the embedding
    default_loss = LossWeights(task=1.0, distill=2.5, source="ICKD Cifar100: CE + 2.5 ICKD (-a 0 -b 2.5)")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.embeddings = nn.ModuleList(
            embedding(pair.student_shape.channels, pair.teacher_shape.channels) for pair in self.pairs
        )

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """The last pair."""
        return pairs[-1:]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "ickd"."""
        losses = [
            ickd_loss(embed(as_map(student)), teacher, reduction=self.config.reduction)
            for embed, student, teacher in zip(self.embeddings, *self.features(pairing), strict=True)
        ]
        return {"ickd": torch.stack(losses).sum()}
