"""SP: samples that are alike for the teacher are alike for the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import LossWeights, Paper
from understudy.methods.shared.relations import inner_products, related_rows
from understudy.methods.shared.stages import StageConfig, StageMethod, StagePair

__all__ = ["SP", "sp_loss"]


def sp_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Squared difference between the row-normalised similarity matrices of a batch.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, eq. 1 to 4: G = F F^T with one row of F
    per sample, its rows scaled to length 1; |G_s - G_t|_F^2 / M^2.

    Args:
        student_features: (M, D) or (M, D, H, W); half types are raised to float32, wider ones stay.
        teacher_features: (M, ...) of any other size, no gradient flows into it.

    Returns:
        Scalar, dimensionless: mean over the M^2 pairs.

    Raises:
        UserError: other samples on one side than on the other.
    """
    student, teacher = related_rows(student_features, teacher_features)
    return F.mse_loss(_similarities(student), _similarities(teacher))


def _similarities(rows: Tensor) -> Tensor:
    return F.normalize(inner_products(rows, rows), dim=1)  # (M, M)


class SP(StageMethod, name="sp"):
    """The student keeps which samples of a batch the teacher finds alike.

    Sum over stages of |G_s - G_t|_F^2 / M^2, G the similarities F F^T of a batch with rows of length 1, on maps
    (M, D, H, W) of any size: stages of CNNs and ViTs compare, and neither channels nor positions need to agree. Mean
    over M^2 pairs. The last stages alone are compared unless others are named; weights 1 task and 3000 with them are
    the field's on CIFAR-100.

    Differs from: nothing in value (golden sp). Products are taken in at least float32, where the official code
    overflows in half precision.
    """

    class Config(StageConfig):
        """Settings of SP."""

    paper = Paper(
        authors="Tung, Mori",
        title="Similarity-Preserving Knowledge Distillation",
        venue="ICCV",
        year=2019,
        arxiv="1907.09682",
    )
    rows = "related"
    default_loss = LossWeights(task=1.0, distill=3000.0, source="mdistiller engine/cfg.py: CE 1, SP 3000 (CIFAR-100)")

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """The last stages alone, as mdistiller and RepDistiller."""
        return pairs[-1:]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "sp", a sum over stages."""
        losses = [sp_loss(ours, theirs) for ours, theirs in zip(*self.features(pairing), strict=True)]
        return {"sp": torch.stack(losses).sum()}
