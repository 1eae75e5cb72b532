"""VkD: features behind an orthogonal projection against the teacher's, of which each row is normalised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

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
    refuse_unlike_shapes,
)
from understudy.methods.shared.connectors import linear_connector, pooled
from understudy.methods.shared.embeddings import tap_channels
from understudy.methods.shared.maps import full_precision

__all__ = ["VkD", "vkd_loss"]


def vkd_loss(projected: Tensor, teacher_features: Tensor, *, beta: float = 1.0, eps: float = 1e-5) -> Tensor:
    """Smooth L1 distance from projected student features to the teacher's, each row of which is standardised.

    Miles, Elezi, Deng, "VkD: Improving Knowledge Distillation using Orthogonal Projections", CVPR 2024. The student's
    side is not normalised.

    Args:
        projected: (M, D) student features in the teacher's space; half types are raised to float32.
        teacher_features: (M, D), no gradient flows into it.
        beta: where the square ends and the absolute value begins.
        eps: added to the variance of a row.

    Returns:
        Scalar mean over all entries.

    Raises:
        UserError: the shapes differ.
    """
    refuse_all_but_rows("vkd", projected, teacher_features)
    refuse_unlike_shapes("vkd", projected, teacher_features)
    student, teacher = at_least_float32(projected), at_least_float32(teacher_features.detach())
    return F.smooth_l1_loss(student, F.layer_norm(teacher, teacher.shape[1:], eps=eps), beta=beta)


class VkD(Method, name="vkd"):
    """The student's features, turned into the teacher's space by a matrix that stays orthogonal, meet its own.

    smoothL1(W f_s, LN(f_t)) on (M, D) features, mean over all entries; maps and patches are averaged over their
    positions. W has orthonormal columns, or rows where the student has more channels than the teacher, so that
    distances between the student's features are kept and the projection can learn nothing in its place. As released,
    a DeiT has `kd` at T = 1 on its second head beside it: `student_tap: norm`, task_weight 1, all weights 1.

    Differs from: nothing in value (golden vkd). W is kept orthogonal by torch's parametrization, as the authors do.
    Their task-specific normalisation has two other forms, a whitening for image generation and one over all positions
    for detection, that are not here.
    """

    class Config(MethodConfig):
        """Settings of VkD."""

        beta: float = Field(default=1.0, gt=0)  # of smooth L1; torch's own
        eps: float = Field(default=1e-5, gt=0)  # of the teacher's layer norm; torch's own
        student_tap: str = "embedding"  # of a vision transformer: the class token; norm: its patches
        teacher_tap: str = "embedding"

    paper = Paper(
        authors="Miles, Elezi, Deng",
        title="VkD: Improving Knowledge Distillation using Orthogonal Projections",
        venue="CVPR",
        year=2024,
        arxiv="2403.06213",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    default_loss = LossWeights(task=1.0, distill=1.0, source="vkd engine.py: cross-entropy + KL + 1.0 of this")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        in_channels = tap_channels(context.student, config.student_tap, setting="method.student_tap")
        out_channels = tap_channels(context.teacher, config.teacher_tap, setting="method.teacher_tap")
        self.projector: nn.Module = orthogonal(linear_connector(in_channels, out_channels, bias=False))

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        assert isinstance(config, cls.Config)
        return Taps(student=(config.student_tap,), teacher=(config.teacher_tap,))

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "vkd"."""
        student = pooled(pairing.student_features[self.config.student_tap])
        teacher = pooled(at_least_float32(pairing.teacher_features[self.config.teacher_tap]))
        with full_precision(student):  # torch has no orthogonal matrices in half types
            projected = self.projector(student.to(torch.promote_types(student.dtype, torch.float32)))
        return {"vkd": vkd_loss(projected, teacher, beta=self.config.beta, eps=self.config.eps)}
