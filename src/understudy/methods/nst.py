"""NST: the teacher's channels as a sample of patterns that the student's channels should follow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper
from understudy.methods.shared.maps import comparable_maps, full_precision
from understudy.methods.shared.stages import StageConfig, StageMethod

__all__ = ["NST", "nst_loss"]


def nst_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between the channels of two maps, under the kernel (x . y)^2.

    Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017, with the
    polynomial kernel (d = 2, c = 0): mean k(t, t') + mean k(s, s') - 2 mean k(s, t) over pairs of channels, each
    channel a vector over positions of length 1.

    Args:
        student_features: (M, D_s, H_s, W_s); half types are raised to float32.
        teacher_features: (M, D_t, H_t, W_t), no gradient flows into it; the larger map is averaged down to the
            smaller, the channels may differ.

    Returns:
        Scalar mean over rows, between 0 and 2 up to rounding.

    Raises:
        UserError: the rows differ.
    """
    student, teacher = comparable_maps(student_features, teacher_features)
    student, teacher = F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)  # (M, D, H*W)
    num_positions = student.shape[2]
    with full_precision(student):
        if num_positions**2 <= student.shape[1] * teacher.shape[1]:
            # mean over i, j of (x_i . y_j)^2 = <G_x, G_y>, G the mean over channels of x xT: one difference of Grams.
            return (_position_gram(student) - _position_gram(teacher)).square().sum(dim=(1, 2)).mean()
        return _mean_kernel(teacher, teacher) + _mean_kernel(student, student) - 2 * _mean_kernel(student, teacher)


def _position_gram(channels: Tensor) -> Tensor:
    """(M, H*W, H*W), the mean over channels of their outer products."""
    return channels.mT @ channels / channels.shape[1]


def _mean_kernel(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours @ theirs.mT).square().mean()  # (M, D, D'): channels by channels, positions summed away


class NST(StageMethod, name="nst"):
    """The student's channels select the same places as the teacher's, as distributions over channels.

    Sum over pairs of stages of the squared maximum mean discrepancy under (x . y)^2 between the channels of two
    (M, D, H, W) maps, each channel of length 1; mean over rows and over pairs of channels. Weights 1 task and 50
    distill, over all stages after the stem.

    Differs from: nothing in value (golden nst). mdistiller and RepDistiller hold an (M, D, D', H*W) tensor; here it
    is the smaller of (M, D, D') and (M, H*W, H*W). Of the paper's kernels only the polynomial one is
    here, as in both codes.
    """

    class Config(StageConfig):
        """Settings of NST."""

    paper = Paper(
        authors="Huang, Wang",
        title="Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
        venue="arXiv",
        year=2017,
        arxiv="1707.01219",
    )
    default_loss = LossWeights(
        task=1.0, distill=50.0, source="mdistiller engine/cfg.py: CE 1.0, FEAT 50 (CIFAR-100), RepDistiller the same"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.refuse_single_positions()

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "nst"."""
        losses = [nst_loss(student, teacher) for student, teacher in zip(*self.features(pairing), strict=True)]
        return {"nst": torch.stack(losses).sum()}
