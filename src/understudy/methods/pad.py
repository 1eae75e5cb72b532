"""PAD: each sample's feature distance is weighed by a variance that is learnt along with it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

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
from understudy.methods.shared.embeddings import tap_channels
from understudy.utils.errors import UserError

__all__ = ["PAD", "pad_loss"]


def pad_loss(student_features: Tensor, teacher_features: Tensor, log_variances: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Squared feature distance divided by a learnt variance, plus the logarithm of that variance.

    Zhang et al., "Prime-Aware Adaptive Distillation", ECCV 2020: the mean of (t - s)^2 / (v + eps) + log v. A sample
    that is hard to imitate gets a large v and so a small weight; log v keeps v from growing without end.

    Args:
        student_features: (M, D) in the teacher's space; half types are raised to float32.
        teacher_features: (M, D), no gradient flows into it.
        log_variances: log v, (M, D) or, one for each sample, (M, 1).
        eps: keeps the weight below 1 / eps.

    Returns:
        Scalar mean over rows and channels. At the best v it is 1 + log((t - s)^2), so it may be negative; with log v
        of 0 it is the mean squared error, up to eps.

    Raises:
        UserError: the shapes do not fit.
    """
    refuse_all_but_rows("pad", student_features, teacher_features)
    sizes = (student_features.shape, (len(student_features), 1))
    if student_features.shape != teacher_features.shape or log_variances.shape not in sizes:
        raise UserError(
            f"pad needs student features (M, D), teacher features (M, D) and log variances (M, D) or (M, 1), but got "
            f"{tuple(student_features.shape)}, {tuple(teacher_features.shape)} and {tuple(log_variances.shape)}; "
            "project onto as many channels as the teacher has, and pool maps first"
        )
    student, teacher = at_least_float32(student_features), at_least_float32(teacher_features.detach())
    log_variances = at_least_float32(log_variances)
    # 1 / (v + eps) without forming v, which overflows where log v is large.
    weight = torch.exp(-torch.logaddexp(log_variances, log_variances.new_tensor(math.log(eps))))
    return ((teacher - student).square() * weight + log_variances).mean()


class PAD(Method, name="pad"):
    """The student's embedding approaches the teacher's, samples that are hard to imitate counting less.

    mean of (t - s)^2 / (v + 1e-6) + log v over (M, D) embeddings, t the teacher's, s the student's (through a linear
    layer where D differs), log v from a linear layer with batch norm on the student's embedding. Maps are averaged
    over their positions. Rows are related through that batch norm. Defaults: task 1 and own weight 1, variance per
    channel, those of torchdistill's ImageNet configuration; no CIFAR-100 values are published.

    The paper trains first without the variance: `stage: warm_up` is the mean squared error alone. Then start the
    second run from the first one's student (student.weights) and, where the widths differ, its projector (init_from);
    where they are equal the first run trains none and has none to hand over.

    Differs from: the authors released no code. `variance: sample` gives one v to each sample; torchdistill's, and our
    default, is one to each channel of each sample. torchdistill has no projector, so it takes equal widths only, and
    gives the layer before the batch norm a bias, which changes nothing.
    """

    class Config(MethodConfig):
        """Settings of PAD."""

        stage: Literal["warm_up", "distill"] = "distill"
        variance: Literal["channel", "sample"] = "channel"  # torchdistill's VarianceBranch4PAD
        eps: float = Field(default=1e-6, gt=0)  # torchdistill's PADL2Loss
        student_tap: str = "embedding"
        teacher_tap: str = "embedding"

    paper = Paper(
        authors="Zhang, Lan, Dai, Zeng, Bai, Chang, Wei",
        title="Prime-Aware Adaptive Distillation",
        venue="ECCV",
        year=2020,
        arxiv="2008.01458",
    )
    taps = Taps(student=("embedding",), teacher=("embedding",))
    rows = "related"
    default_loss = LossWeights(
        task=1.0, distill=1.0, source="torchdistill pad/resnet18_from_resnet34.yaml: 1 CE + 1 PAD-L2, either stage"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        in_channels = tap_channels(context.student, config.student_tap, setting="method.student_tap")
        out_channels = tap_channels(context.teacher, config.teacher_tap, setting="method.teacher_tap")
        self.projector: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.projector = linear_connector(in_channels, out_channels)
        if config.stage == "distill":
            num_variances = out_channels if config.variance == "channel" else 1
            # Batch norm takes any bias away again.
            self.log_variance = nn.Sequential(
                linear_connector(in_channels, num_variances, bias=False), nn.BatchNorm1d(num_variances)
            )

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The one tap of either side."""
        assert isinstance(config, cls.Config)
        return Taps(student=(config.student_tap,), teacher=(config.teacher_tap,))

    @classmethod
    def min_rows(cls, config: MethodConfig) -> int:
        """2 under the batch norm of the variance, 1 while there is none."""
        assert isinstance(config, cls.Config)
        return 2 if config.stage == "distill" else 1

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "pad", or "mse" in the warm-up."""
        embedding = pooled(pairing.student_features[self.config.student_tap])
        teacher = pooled(at_least_float32(pairing.teacher_features[self.config.teacher_tap]).detach())
        projected = at_least_float32(self.projector(embedding))
        if self.config.stage == "warm_up":
            return {"mse": (teacher - projected).square().mean()}
        return {"pad": pad_loss(projected, teacher, self.log_variance(embedding), eps=self.config.eps)}
