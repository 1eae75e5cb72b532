"""ReviewKD: deep student features, handed upwards and fused, learn from the teacher's shallower ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import Context, LossWeights, MethodConfig, Paper, at_least_float32
from understudy.methods.shared.connectors import pooled
from understudy.methods.shared.embeddings import conv_norm
from understudy.methods.shared.maps import as_map
from understudy.methods.shared.stages import Group, StageConfig, StageMethod
from understudy.utils.errors import UserError

__all__ = ["AttentionFusion", "ReviewKD", "reviewkd_loss"]

_POOLED_SIDES = (4, 2, 1)  # of HCL's pyramid


def reviewkd_loss(reviewed: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss (HCL): squared distance at the full size and at a pyramid of pooled ones.

    Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021. Per level the mean of
    MSE(s, t) with weight 1 and MSE(P_l s, P_l t) for those l of 4, 2, 1 below the map's height, with weights 1/2, 1/4,
    1/8 in the order used; P_l is adaptive average pooling to l x l.

    Args:
        reviewed: per level, (M, D, H, W) or (M, D); half types are raised to float32.
        teacher_maps: of the same shapes, no gradient flows into them.

    Returns:
        Scalar: mean over all elements within a level, sum over levels.

    Raises:
        UserError: the shapes differ.
    """
    shapes = [[tuple(feature.shape) for feature in side] for side in (reviewed, teacher_maps)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"reviewkd compares maps of equal shapes, but the reviewed student's are {shapes[0]} and the teacher's "
            f"{shapes[1]}; fuse them at the teacher's sizes and channels first"
        )
    levels = [_context_distance(ours, theirs) for ours, theirs in zip(reviewed, teacher_maps, strict=True)]
    return torch.stack(levels).sum()


def _context_distance(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = as_map(at_least_float32(student)), as_map(at_least_float32(teacher.detach()))
    distance, weight, total_weight = F.mse_loss(student, teacher), 1.0, 1.0
    for side in _POOLED_SIDES:
        if side < student.shape[2]:  # the height alone, as in the authors' code, for maps that are not square too
            weight /= 2
            total_weight += weight
            gap = F.adaptive_avg_pool2d(student - teacher, side)
            distance = distance + weight * gap.square().mean()
    return distance / total_weight


class AttentionFusion(nn.Module):
    """ABF: a student map, fused with what came up from the deeper level, in the teacher's size and channels.

    x = BN(1x1 f); (z1, z2) = sigmoid(1x1 [x, up(r)]); x = z1 x + z2 up(r); r' = nearest(x, to the teacher's size);
    output = BN(3x3 r'). The deepest level has no r and takes x as it is.

    Args:
        in_channels: of the student map.
        mid_channels: of x and r.
        out_channels: of the teacher map.
        fuses: False at the deepest level.

    Shapes: (M, in_channels, H, W) and r to (M, out_channels, H', W') and r' (M, mid_channels, H', W').
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, fuses: bool) -> None:
        super().__init__()
        inner, outer = conv_norm(in_channels, mid_channels), conv_norm(mid_channels, out_channels, kernel_size=3)
        for convolution, _ in (inner, outer):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # as the authors begin
        self.conv1, self.conv2 = nn.Sequential(*inner), nn.Sequential(*outer)
        self.att_conv = nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(self, maps: Tensor, residual: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The output and r', both at `size`; `residual` is the deeper level's r'."""
        inner = self.conv1(maps)
        if self.att_conv is not None:
            assert residual is not None
            residual = F.interpolate(residual, size=inner.shape[2:], mode="nearest")
            attention = self.att_conv(torch.cat([inner, residual], dim=1))  # (M, 2, H, W)
            inner = inner * attention[:, :1] + residual * attention[:, 1:]
        if inner.shape[2:] != size:
            inner = F.interpolate(inner, size=size, mode="nearest")
        return self.conv2(inner), inner


class ReviewKD(StageMethod, name="reviewkd"):
    """Each student stage, fused with all deeper ones, learns one teacher stage: early knowledge is reviewed late.

    Levels are the paired stages and, deepest, the embeddings as 1x1 maps. From the deepest level upwards the student
    maps pass through attention based fusion (`AttentionFusion`), then HCL: mean over elements, sum over levels
    (`reviewkd_loss`). All sizes are those of the dry forward. Task 1 and 1 times this with 20 warm-up epochs; the
    authors take 5 for resnet32x4-resnet8x4, on ImageNet 1 (resnet34-resnet18) or 8 (resnet50-mobilenetv1) with
    warm-up 1.

    `embedding: false` leaves the embeddings out and takes all stages: the levels p2 to p6 of two detectors, weight 2
    for MobileNetV2 under ResNet-50, 1.2 and 1 for ResNets (golden reviewkd_detection).

    `preact` says which side is looked at before the activations that end its stages: the teacher in their CIFAR-100
    code, the student too in their ImageNet code. Both have to offer pre-activations then (see ofd).

    Differs from: the default, which looks at stages behind their activations, what any network offers, ViTs included.
    With `preact: teacher` we equal their code to 1e-12 in float64 (golden reviewkd). Stages are paired as
    `StageMethod` says rather than cut off by zip; named ones go from shallow to deep. Maps need not be square.
    """

    class Config(StageConfig):
        """Settings of ReviewKD."""

        max_mid_channels: int = Field(
            default=512, ge=1
        )  # mid = min(this, the student's embedding); fixed in mdistiller
        embedding: bool = True  # the deepest level is the embedding; false: stages alone, as a detector's pyramid has
        preact: Literal["none", "teacher", "both"] = "none"  # mdistiller: teacher, and on ImageNet both (STU_PREACT)

    paper = Paper(
        authors="Chen, Liu, Zhao, Jia",
        title="Distilling Knowledge via Knowledge Review",
        venue="CVPR",
        year=2021,
        arxiv="2104.09044",
    )
    taps = Taps(student=("stages", "embedding"), teacher=("stages", "embedding"))
    rows = "related"  # the batch norms of the fusion
    default_loss = LossWeights(
        task=1.0, distill=1.0, warmup_epochs=20, source="mdistiller engine/cfg.py: CE 1.0, ReviewKD 1.0, warm-up 20"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        student, teacher = context.student, context.teacher
        self.levels = [("embedding", "embedding")] if config.embedding else []  # deepest first
        self.levels += [(pair.student, pair.teacher) for pair in reversed(self.pairs)]
        mid_channels = min(config.max_mid_channels, student[self.levels[0][0]].channels)
        self.fusions = nn.ModuleList(
            AttentionFusion(student[ours].channels, mid_channels, teacher[theirs].channels, fuses=number > 0)
            for number, (ours, theirs) in enumerate(self.levels)
        )

    @classmethod
    def groups_for(cls, config: MethodConfig) -> tuple[Group, Group]:
        """Pre-activations on the sides that `preact` names."""
        assert isinstance(config, cls.Config)
        ours: Group = "preact_stages" if config.preact == "both" else "stages"
        return ours, "stages" if config.preact == "none" else "preact_stages"

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The stages and, where they are wanted, the embeddings."""
        assert isinstance(config, cls.Config)
        stages = super().taps_for(config)
        if not config.embedding:
            return stages
        return Taps(student=(*stages.student, "embedding"), teacher=(*stages.teacher, "embedding"))

    def skips_stem(self) -> bool:
        """Not of a pyramid of maps alone, whose first level is no stem."""
        return bool(self.config.embedding)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "hcl"."""
        reviewed, teacher_maps = [], []
        residual: Tensor | None = None
        for fusion, (ours, theirs) in zip(self.fusions, self.levels, strict=True):
            student, teacher = (as_map(side) for side in _at_level(pairing, ours, theirs))
            output, residual = fusion(student, residual, tuple(teacher.shape[2:]))
            reviewed.append(output)
            teacher_maps.append(teacher)
        return {"hcl": reviewkd_loss(reviewed, teacher_maps)}


def _at_level(pairing: Pairing, ours: str, theirs: str) -> tuple[Tensor, Tensor]:
    student, teacher = pairing.student_features[ours], pairing.teacher_features[theirs]
    return (pooled(student), pooled(teacher)) if ours == "embedding" else (student, teacher)
