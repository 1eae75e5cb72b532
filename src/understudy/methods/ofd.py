"""OFD: feature distillation at the pre-activations, with a margin that batch-norm statistics give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, Paper, at_least_float32
from understudy.methods.shared.embeddings import conv_norm
from understudy.methods.shared.maps import as_map
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError

__all__ = ["OFD", "negative_margin", "ofd_loss"]

_RAREST_NEGATIVE = 0.001  # below this share of negative values their mean is not trusted
_SMALLEST_SCALE = 1e-30


def negative_margin(norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
    """Mean of a batch norm's negative outputs, per channel, if its outputs are normal.

    Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019: with mean mu = bias and
    deviation s = |weight|, mu - s * phi(mu / s) / Phi(-mu / s); -3 s where fewer than 0.1 % of them are negative.
    A channel of weight 0 is a constant, its margin min(mu, 0); the authors' code gives NaN where mu is 0, too.

    Args:
        norm_weight: (D,) gamma.
        norm_bias: (D,) beta.

    Returns:
        (D,) float32, as the authors store it; computed in float64.
    """
    mean, scale = norm_bias.detach().double(), norm_weight.detach().double().abs().clamp(min=_SMALLEST_SCALE)
    standardised = mean / scale
    density = torch.exp(-0.5 * standardised.square()) / math.sqrt(2 * math.pi)
    share = torch.special.ndtr(-standardised)
    margin = mean - scale * density / share.clamp(min=_RAREST_NEGATIVE)
    return torch.where(share > _RAREST_NEGATIVE, margin, -3 * scale).float()


def ofd_loss(connected: Sequence[Tensor], teacher_maps: Sequence[Tensor], margins: Sequence[Tensor]) -> Tensor:
    """Partial squared distance to the teacher's margin-rectified pre-activations.

    Heo et al., ICCV 2019. With t = max(teacher, margin), a place counts (t - s)^2, and nothing where
    s <= t <= 0: what the teacher suppresses the student need not copy. Stage i of n has weight 2^-(n - 1 - i).

    Args:
        connected: per stage, (M, D, H, W) student maps in the teacher's channels; half types are raised to float32.
        teacher_maps: per stage, (M, D, H', W') pre-activations, brought to H, W by adaptive average pooling; no
            gradient flows into them.
        margins: per stage, (D,), at most 0.

    Returns:
        Scalar: sum over stages, channels and places, mean over the M rows.

    Raises:
        UserError: the numbers of stages or channels differ.
    """
    connected, teacher_maps = ([as_map(maps) for maps in side] for side in (connected, teacher_maps))
    shapes = [[tuple(maps.shape[:2]) for maps in side] for side in (connected, teacher_maps)]
    if shapes[0] != shapes[1] or len(margins) != len(connected):
        raise UserError(
            f"ofd compares stages channel by channel, but the student's (rows, channels) are {shapes[0]}, the "
            f"teacher's {shapes[1]}, with {len(margins)} margins; connect each stage to the teacher's channels first"
        )
    total = connected[0].new_zeros((), dtype=at_least_float32(connected[0]).dtype)
    for stage, (student, teacher, margin) in enumerate(zip(connected, teacher_maps, margins, strict=True)):
        student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
        teacher = F.adaptive_avg_pool2d(teacher, (student.shape[2], student.shape[3]))
        target = torch.maximum(teacher, margin.to(teacher.dtype)[:, None, None])
        counts = (student > target) | (target > 0)
        total = total + ((student - target).square() * counts).sum() / len(student) * 2.0 ** (stage + 1 - len(margins))
    return total


class OFD(StageMethod, name="ofd"):
    """The student's pre-activations, connected by 1x1 convolution and batch norm, approach the teacher's.

    sum over stages i of 2^-(n-1-i) * sum over d, h, w of the mean over rows of d_p(max(f_t, margin), r(f_s)), with
    d_p(t, s) = 0 where s <= t <= 0 and (t - s)^2 elsewhere, on (M, D, H, W) maps before the last ReLU of each stage.
    The margin of a channel is the mean of its negative values, from the teacher's batch norm. Task 1 and 0.001 times
    this on CIFAR-100; on ImageNet 1e-4 for resnet50-mobilenetv1.

    Stages are paired as `StageMethod` says, among the pre-activations: what enters the last activation of a stage, or
    its output where that is a linear bottleneck (MobileNetV2, EfficientNet), as in the authors' segmentation code.
    Known are those of the cifar family and of timm's and torchvision's ResNet, RegNet, VGG, MobileNet and EfficientNet.
    Networks without batch norm in front of an activation, such as ViTs, have none; of others, stages can be named, as
    `student_stages: ["layer2.1.act2:input", ...]`.

    Differs from: the authors run the teacher with batch statistics while training; here it is in eval mode, as for
    every method. A batch-norm channel of weight 0 has a finite margin
    (test_a_channel_without_scale_has_the_margin_of_a_constant). Equal elsewhere to 1e-12 in float64 (golden ofd).
    """

    class Config(StageConfig):
        """Settings of OFD; stages are numbered among the pre-activations."""

    paper = Paper(
        authors="Heo, Kim, Yun, Park, Kwak, Choi",
        title="A Comprehensive Overhaul of Feature Distillation",
        venue="ICCV",
        year=2019,
        arxiv="1904.01866",
    )
    taps = Taps(student=("preact_stages",), teacher=("preact_stages",))
    group = "preact_stages"
    rows = "related"  # the connectors' batch norms
    default_loss = LossWeights(task=1.0, distill=1e-3, source="mdistiller engine/cfg.py: CE 1.0, OFD 0.001 (CIFAR-100)")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.connectors = nn.ModuleList()
        for number, pair in enumerate(self.pairs):
            convolution, norm = conv_norm(pair.student_shape.channels, pair.teacher_shape.channels)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as the authors begin
            self.connectors.append(nn.Sequential(convolution, norm))
            self.register_buffer(f"margin_{number}", _margin_at(context, pair.teacher))

    @property
    def margins(self) -> list[Tensor]:
        """(D,) per stage."""
        return [self.get_buffer(f"margin_{number}") for number in range(len(self.pairs))]

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "ofd"."""
        student, teacher = self.features(pairing)
        connected = [connector(as_map(maps)) for connector, maps in zip(self.connectors, student, strict=True)]
        return {"ofd": ofd_loss(connected, [as_map(maps) for maps in teacher], self.margins)}


def _margin_at(context: Context, tap: str) -> Tensor:
    norm = context.teacher.norm_before(tap)
    if norm is None or norm.weight is None or norm.bias is None:
        raise UserError(
            f"method 'ofd' takes its margins from an affine batch norm before {tap!r} of the teacher, and finds none "
            "('norm' in its feature_info); take a teacher that has one, or method 'fitnet'"
        )
    return negative_margin(norm.weight, norm.bias)
