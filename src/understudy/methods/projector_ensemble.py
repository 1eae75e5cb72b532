"""PEFD: the mean of several projectors of the student's embedding turns towards the teacher's."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import (
    Context,
    LossWeights,
    Method,
    MethodConfig,
    Paper,
    at_least_float32,
    refuse_all_but_rows,
)
from understudy.methods.shared.connectors import linear_connector, pooled
from understudy.methods.shared.embeddings import tap_channels, unit_rows
from understudy.utils.errors import UserError

__all__ = ["ProjectorEnsemble", "projector_ensemble_loss"]


def projector_ensemble_loss(projected: Tensor, teacher_features: Tensor) -> Tensor:
    """1 - cosine between the ensemble's output and the teacher's features.

    Chen et al., "Improved Feature Distillation via Projector Ensemble", NeurIPS 2022.

    Args:
        projected: (M, D) mean over the projectors; half types are raised to float32, wider ones stay.
        teacher_features: (M, D), no gradient flows into it.

    Returns:
        Scalar mean over the M rows, in 0..2; a zero row on either side counts 1, with a finite gradient.

    Raises:
        UserError: the shapes differ.
    """
    refuse_all_but_rows("projector_ensemble", projected, teacher_features)
    if projected.shape != teacher_features.shape:
        raise UserError(
            f"projected features are {tuple(projected.shape)}, the teacher's {tuple(teacher_features.shape)}; "
            "project onto as many channels as the teacher has, and pool maps first"
        )
    student, teacher = unit_rows(at_least_float32(projected)), unit_rows(at_least_float32(teacher_features.detach()))
    return 1 - (student * teacher).sum(dim=1).mean()


class ProjectorEnsemble(Method, name="projector_ensemble"):
    """Several ReLU projectors of the student's embedding, begun apart, point on average where the teacher's points.

    mean over rows of 1 - cos(mean over q of ReLU(W_q z_s + b_q), z_t) on (M, D) embeddings; maps are averaged over
    their positions. Three projectors, task 1 and 25 times this, no KD, as in the authors' training loop.

    Differs from: the authors divide by the norm as it is, which is NaN where every projector's ReLU is shut or the
    teacher's embedding is zero; here such a row counts 1
    (test_a_zero_row_counts_one_with_a_finite_gradient). Equal elsewhere to 1e-12 in float64 (golden pefd). Their
    three projectors are fixed; `num_projectors` is free, and all of them are one matrix product.
    """

    class Config(MethodConfig):
        """Settings of the projector ensemble."""

        num_projectors: int = Field(default=3, ge=1)  # Q; PEFD helper/loops.py
        student_tap: str = "embedding"
        teacher_tap: str = "embedding"

    paper = Paper(
        authors="Chen, Wang, Liu, Xu, de Hoog, Huang",
        title="Improved Feature Distillation via Projector Ensemble",
        venue="NeurIPS",
        year=2022,
        arxiv="2210.15274",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    default_loss = LossWeights(task=1.0, distill=25.0, source="PEFD helper/loops.py: gamma 1 CE, alpha 0 KD, beta 25")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        in_channels = tap_channels(context.student, config.student_tap, setting="method.student_tap")
        out_channels = tap_channels(context.teacher, config.teacher_tap, setting="method.teacher_tap")
        # One layer of Q * D outputs: torch's initial range depends on the inputs only, so each part begins as its own.
        self.projectors = linear_connector(in_channels, config.num_projectors * out_channels)

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        assert isinstance(config, cls.Config)
        return Taps(student=(config.student_tap,), teacher=(config.teacher_tap,))

    def projected(self, feature: Tensor) -> Tensor:
        """The mean of the projectors' outputs: (M, D_s) or (M, D_s, H, W) to (M, D_t)."""
        each: Tensor = self.projectors(pooled(feature)).relu().unflatten(1, (self.config.num_projectors, -1))
        return at_least_float32(each).mean(dim=1)  # (M, Q, D) to (M, D)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "cosine"."""
        projected = self.projected(pairing.student_features[self.config.student_tap])
        teacher = pooled(at_least_float32(pairing.teacher_features[self.config.teacher_tap]))
        return {"cosine": projector_ensemble_loss(projected, teacher)}
