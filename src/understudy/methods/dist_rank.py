"""DIST by ranks: the student keeps the order that the teacher sees, along each prediction and along each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from understudy.core.batch import Pairing
from understudy.methods.base import (
    LossWeights,
    Method,
    MethodConfig,
    comparable_logits,
    refuse_all_but_rows,
    refuse_unlike_shapes,
)
from understudy.methods.dist import DIST
from understudy.methods.shared.logits import as_rows

__all__ = ["DISTRank", "dist_rank_loss", "rank_relation", "soft_ranks"]

_EPS = 1e-6  # bounds the gradient where all values are equal, at about 1e6 as in DIST
_PAIRS_AT_ONCE = 2**24  # 64 MiB of float32; more are compared in pieces and again in the backward pass


def soft_ranks(values: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Differentiable ranks along each row: r_i = 1 + sum over j != i of sigmoid((x_i - x_j) / t).

    Qin et al., "A general approximation framework for direct optimization of information retrieval measures",
    Information Retrieval 2010, eq. 13, after x is brought to mean 0 and standard deviation 1.

    Args:
        values: (R, n), float32 or wider.
        temperature: t > 0 in standard deviations of the row; ranks are exact as it goes to 0.

    Returns:
        (R, n) between 1 (the smallest) and n; the same for a * x + b in place of x, a > 0. Time R * n^2, memory
        bounded.
    """
    variance, mean = torch.var_mean(values, dim=1, keepdim=True, correction=0)
    scaled = (values - mean) * torch.rsqrt(variance + _EPS) / temperature
    pieces = torch.split(scaled, max(1, _PAIRS_AT_ONCE // values.shape[1] ** 2))
    if len(pieces) == 1:
        return _ranks_by_pairs(scaled)
    return torch.cat(
        [checkpoint(_ranks_by_pairs, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    )


def _ranks_by_pairs(scaled: Tensor) -> Tensor:
    return 0.5 + torch.sigmoid(scaled[:, :, None] - scaled[:, None, :]).sum(dim=2)  # i = j contributes the other 0.5


def rank_relation(student: Tensor, teacher: Tensor, *, temperature: float = 0.1) -> Tensor:
    """One minus Spearman's correlation of student and teacher along each row, by soft ranks; mean over rows.

    Args:
        student: (R, n), float32 or wider.
        teacher: (R, n).
        temperature: as in `soft_ranks`, on both sides.

    Returns:
        Scalar in 0..2; about 1e-5 where the sides agree, 1 for rows whose values are all equal.
    """
    refuse_all_but_rows("rank_relation", student, teacher)
    refuse_unlike_shapes("rank_relation", student, teacher)
    student, teacher = (_centred(soft_ranks(side, temperature=temperature)) for side in (student, teacher))
    norms = (student.square().mean(dim=1) + _EPS) * (teacher.square().mean(dim=1) + _EPS)
    return 1 - ((student * teacher).mean(dim=1) * norms.rsqrt()).mean()


def _centred(ranks: Tensor) -> Tensor:
    """Ranks as shares of n, which keeps _EPS small against them whatever n is, less their mean (n + 1) / 2."""
    num_items = ranks.shape[1]
    return (ranks - (num_items + 1) / 2) / num_items


def dist_rank_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    tau: float = 1.0,
    rank_temperature: float = 0.1,
) -> Tensor:
    """DIST's two relations by rank correlation: beta * inter-class + gamma * intra-class.

    The mapping that the talk on Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, names
    as future work. Ranked are log softmax(z / tau), whose order is that of the probabilities.

    Args:
        student_logits: (M, C), or (N, C, H, W) whose pixels become the rows; half types are raised to float32.
        teacher_logits: the same shape, no gradient flows into it.
        beta: weight of the inter-class relation, a mean over rows.
        gamma: weight of the intra-class relation, a mean over classes.
        tau: temperature > 0 of the softmax; without effect on a row's order, with some on a column's.
        rank_temperature: of the soft ranks.

    Returns:
        Scalar between 0 (the same order) and 2 * (beta + gamma).

    Raises:
        UserError: the shapes differ.
    """
    inter, intra = _relations(student_logits, teacher_logits, tau, rank_temperature)
    return beta * inter + gamma * intra


def _relations(
    student_logits: Tensor, teacher_logits: Tensor, tau: float, rank_temperature: float
) -> tuple[Tensor, Tensor]:
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits)
    student = F.log_softmax(as_rows(student_logits) / tau, dim=1)
    teacher = F.log_softmax(as_rows(teacher_logits) / tau, dim=1)
    inter = rank_relation(student, teacher, temperature=rank_temperature)
    return inter, rank_relation(student.mT, teacher.mT, temperature=rank_temperature)


class DISTRank(Method, name="dist_rank"):
    """The student keeps the teacher's order: of classes within a prediction, of predictions within a class.

    beta * (1 - mean over rows of rho) + gamma * (1 - mean over classes of rho) on (M, C) logits, rho the correlation
    of soft ranks of log softmax(z / tau), Spearman's as rank_temperature goes to 0. Any increasing mapping of the
    teacher's probabilities leaves exact ranks, and so the target, as it is; DIST's correlation allows only linear
    ones. Weights are DIST's, task 1 and 2 times this; none are published for ranks. Time grows with
    M * C^2 + C * M^2.

    Differs from: there is no reference. Rows are standardised before they are ranked, so that the temperature means
    the same at every scale; as it goes to 0 the loss is one minus Spearman's correlation
    (test_dist_rank_nears_spearmans_correlation_as_its_temperature_falls).
    """

    class Config(MethodConfig):
        """Settings of DIST by ranks."""

        beta: float = Field(default=1.0, ge=0)  # inter-class weight
        gamma: float = Field(default=1.0, ge=0)  # intra-class weight
        tau: float = Field(default=1.0, gt=0)
        rank_temperature: float = Field(default=0.1, gt=0)  # in standard deviations; ours

    paper = DIST.paper
    needs = frozenset({"teacher_logits"})
    rows = "related"
    default_loss = LossWeights(
        task=1.0, distill=2.0, source="DIST's (image_classification_sota: ori 1, kd 2); none are published for ranks"
    )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "inter" and "intra", weighted by beta and gamma."""
        assert pairing.teacher_logits is not None
        settings = self.config
        inter, intra = _relations(
            pairing.student_logits, pairing.teacher_logits, settings.tau, settings.rank_temperature
        )
        return {"inter": settings.beta * inter, "intra": settings.gamma * intra}
