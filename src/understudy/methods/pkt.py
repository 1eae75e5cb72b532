"""PKT: how probable each sample finds each other one as its neighbour."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import LossWeights, Method, MethodConfig, Paper
from understudy.methods.shared.relations import (
    EmbeddingConfig,
    embedding_taps,
    embeddings,
    inner_products,
    related_rows,
)

__all__ = ["PKT", "pkt_loss"]


def pkt_loss(
    student_features: Tensor, teacher_features: Tensor, *, eps: float = 1e-7, excludes_self: bool = False
) -> Tensor:
    """Divergence between the neighbour probabilities of a batch under teacher and student.

    Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018, eq. 3 to 6:
    mean over i, j of q_t log((q_t + eps) / (q_s + eps)), q_ij = k_ij / sum_j k_ij, k = (cos(f_i, f_j) + 1) / 2.

    Args:
        student_features: (M, D_s) or (M, D_s, H, W); half types are raised to float32, wider ones stay.
        teacher_features: (M, ...) of any other size; no gradient flows into it.
        eps: added to the length of every row and inside the logarithm.
        excludes_self: leave i = j out, as the paper does and the authors' code does not.

    Returns:
        Scalar in nats: mean over the M^2 pairs, so 1/M of the mean divergence of a row.

    Raises:
        UserError: other samples on one side than on the other.
    """
    student, teacher = (
        _neighbour_probabilities(rows, eps, excludes_self) for rows in related_rows(student_features, teacher_features)
    )
    return (teacher * ((teacher + eps) / (student + eps)).log()).mean()


def _neighbour_probabilities(features: Tensor, eps: float, excludes_self: bool) -> Tensor:
    # vector_norm has gradient 0 at a zero row, where the root of a sum of squares has NaN.
    rows = features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + eps)
    kernel = (inner_products(rows, rows) + 1) / 2  # (M, M)
    if excludes_self:
        kernel = kernel * (1 - torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device))
    # Only opposite pairs can bring a row to zero, and only where it excludes itself.
    return kernel / kernel.sum(dim=1, keepdim=True).clamp(min=eps)


class PKT(Method, name="pkt"):
    """The student keeps the teacher's probabilities that one sample is another's neighbour.

    mean over i, j of q_t log(q_t / q_s) on embeddings (M, D) of any width, maps averaged over their positions;
    q from the cosine kernel, each row summing to 1. Mean over M^2 pairs. Weights 1 task and 30000 are the field's on
    CIFAR-100.

    Differs from: a zero row of the student gives a finite gradient, where the authors' code gives NaN
    (test_zero_rows_have_finite_gradients). The paper's probabilities leave out the sample itself, the authors' code
    does not, and so neither do we; `excludes_self: true` gives the paper's
    (test_probabilities_of_the_paper_leave_out_the_sample_itself).
    """

    class Config(EmbeddingConfig):
        """Settings of PKT."""

        eps: float = Field(default=1e-7, gt=0)  # the authors' code
        excludes_self: bool = False

    paper = Paper(
        authors="Passalis, Tefas",
        title="Learning Deep Representations with Probabilistic Knowledge Transfer",
        venue="ECCV",
        year=2018,
        arxiv="1803.10837",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    rows = "related"
    default_loss = LossWeights(
        task=1.0, distill=30000.0, source="mdistiller engine/cfg.py: CE 1, PKT 30000 (CIFAR-100)"
    )

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        return embedding_taps(config)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "pkt"."""
        settings = self.config
        loss = pkt_loss(*embeddings(pairing, settings), eps=settings.eps, excludes_self=settings.excludes_self)
        return {"pkt": loss}
