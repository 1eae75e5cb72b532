"""OFA: each stage of the student says by itself which class it sees, and learns from the teacher's logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.taps import Taps, TapShape
from understudy.methods.base import Context, LossWeights, Method, MethodConfig, Paper, TapShapes, comparable_logits
from understudy.methods.shared.logits import classes_of, mean_over_labelled
from understudy.methods.shared.maps import as_map
from understudy.methods.shared.stages import spread
from understudy.utils.errors import UserError

__all__ = ["OFA", "TokenBranch", "map_branch", "ofa_loss"]

_MOST_STAGES = 4  # the authors'
_HEADS = 4  # of attention, the authors'
_SMALLEST_GRID = 7  # the authors merge patches down to no fewer a side


def ofa_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, epsilon: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy with the teacher's probabilities, of which the label's is enhanced the more, the surer it is.

    Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation", NeurIPS
    2023, eq. 4 to 6: -((1 + p_t)^epsilon - 1) log p_s of the label, and -p_t^epsilon log p_s of every other class. At
    epsilon 1 it is the cross-entropy with p_t. Not scaled by T^2.

    Args:
        student_logits: (M, C); half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        labels: (M,) class numbers, rows of -1 (unlabelled) are left out; or (M, C) mixed, whose largest share counts.
        epsilon: > 0; above 1 the label counts for more and all others for less.
        temperature: T > 0 of both softmaxes.

    Returns:
        Scalar: sum over classes, mean over the labelled rows, in nats; 0 where no row is labelled. It is bounded below
        by the teacher's entropy at epsilon 1, not by 0.

    Raises:
        UserError: shapes of the logits differ, or labels have neither shape.
    """
    student_logits, teacher_logits = comparable_logits(student_logits, teacher_logits, temperature)
    classes, is_labelled = classes_of(labels, student_logits, method="ofa")
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    is_label = torch.arange(teacher.shape[1], device=teacher.device) == classes[:, None]  # (M, C)
    targets = torch.where(is_label, torch.expm1(epsilon * teacher.log1p()), teacher**epsilon)
    return mean_over_labelled(-(targets * log_student).sum(dim=1), is_labelled)


def map_branch(channels: int, width: int, num_blocks: int, num_classes: int) -> nn.Sequential:
    """Depthwise-separable convolutions, each halving the sides, pooling, and a linear classifier.

    Args:
        channels: of the stage it sits on; they double from block to block, to `width` at the last.
        width: what the classifier takes.
        num_blocks: stages after this one; 0: one 1x1 convolution to `width`.
        num_classes: C.

    Returns:
        (M, D, H, W) to (M, C).
    """
    sizes = [channels * 2**number for number in range(num_blocks)] + [width]
    blocks = [_separable(before, after) for before, after in pairwise(sizes)]
    steps: list[nn.Module] = [*blocks] or [nn.Conv2d(channels, width, 1)]
    branch = nn.Sequential(*steps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
    return branch.apply(_initialise)


def _separable(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two depthwise 3x3 convolutions, each before a 1x1, a batch norm and a ReLU; the first one has stride 2."""
    layers: list[nn.Module] = []
    for stride, channels in ((2, in_channels), (1, out_channels)):
        layers += [
            nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class TokenBranch(nn.Module):
    """Patches merged two by two while the grid is large, transformer blocks, the mean token, and a linear classifier.

    Args:
        shape: (D, H, W) of the stage it sits on.
        num_blocks: transformer blocks, at least one.
        num_classes: C.

    Shapes: (M, D, H, W) to (M, C).
    """

    def __init__(self, shape: TapShape, num_blocks: int, num_classes: int) -> None:
        super().__init__()
        channels = shape.channels
        side = min(shape.height or 1, shape.width or 1)
        merges = max(0, int(math.log2(side / _SMALLEST_GRID)))
        merged = [nn.Sequential(nn.Conv2d(channels, channels, 2, stride=2), nn.GELU()) for _ in range(merges)]
        self.merge = nn.Sequential(*merged)
        self.blocks = nn.Sequential(*[_transformer_block(channels) for _ in range(max(1, num_blocks))])
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_initialise)

    def forward(self, maps: Tensor) -> Tensor:
        """(M, C) logits."""
        tokens = self.merge(maps).flatten(2).transpose(1, 2)  # (M, H*W, D)
        logits: Tensor = self.classifier(self.blocks(tokens).mean(dim=1))
        return logits


def _transformer_block(channels: int) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        channels,
        _HEADS if channels % _HEADS == 0 else 1,
        dim_feedforward=4 * channels,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )


def _initialise(layer: nn.Module) -> None:
    """As the authors begin."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class OFA(Method, name="ofa"):
    """Branches on the student's stages, and the student itself, learn the teacher's logits: for unlike architectures.

    logit_weight * L(student's logits) + branch_weight * sum over stages of L(branch's logits), L the cross-entropy
    with adaptively enhanced targets (`ofa_loss`) on (M, C): sum over classes, mean over labelled rows. Task weight 1.
    A branch ends in a classifier of the teacher's classes; nothing but logits is compared, so the teacher may be any
    network (a ViT or a Mixer over a CNN, a bank) and none of its features are read. Branches are thrown away. Defaults
    are the authors'; they take epsilon 1.5 from DeiT-T to ResNet-18 on ImageNet, 1 from Swin-T to ResNet-18 on
    CIFAR-100, and smooth the labels of the task by 0.1.

    Stages are, by default, those after the first (the stem), at most the last four; of a student whose maps all have
    one size (a ViT) four evenly spread ones. Maps (M, D, H, W) of falling sizes go through depthwise-separable
    convolutions (`map_branch`), as many as stages follow, maps of one size through transformer blocks (`TokenBranch`).

    Differs from: the loss is in log space; the authors' takes the logarithm of a softmax, which is infinite where a
    probability underflows (test_ofa_is_finite_where_a_probability_underflows), and is equal elsewhere (golden ofa).
    Unlabelled rows (-1) are left out. Token branches see the patches alone and classify their mean; the authors' keep
    the class token and classify that, merge patches by a layer norm and a linear layer, and take Swin's maps for
    tokens, ours for maps. One epsilon for all branches; theirs may have one each.
    """

    class Config(MethodConfig):
        """Settings of OFA."""

        epsilon: float = Field(default=1.0, gt=0)  # OFAKD train.py --ofa-eps; 1.5 on ImageNet (README)
        temperature: float = Field(default=1.0, gt=0)  # the same file, --ofa-temperature
        logit_weight: float = Field(default=1.0, ge=0)  # the same file, --kd-loss-weight
        branch_weight: float = Field(default=1.0, ge=0)  # the same file, --ofa-loss-weight
        student_stages: tuple[int | str, ...] | None = None  # numbers from 0, or taps; None: see above

    paper = Paper(
        authors="Hao, Guo, Han, Tang, Hu, Wang, Xu",
        title="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        venue="NeurIPS",
        year=2023,
        arxiv="2310.19444",
    )
    taps = Taps(student=("stages",))
    needs = frozenset({"teacher_logits"})
    rows = "related"  # the branches' batch norms
    default_loss = LossWeights(task=1.0, distill=1.0, source="OFAKD train.py: gt, kd and ofa loss weight 1")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.stages = _stages(config.student_stages, context.student)
        shapes = [context.student[stage] for stage in self.stages]
        width = max(shapes[-1].channels, _width(context.teacher.classifier))
        are_tokens = _are_of_one_size(shapes)
        following = range(len(shapes) - 1, -1, -1)
        self.branches = nn.ModuleList(
            TokenBranch(shape, blocks, context.num_classes)
            if are_tokens
            else map_branch(shape.channels, width, blocks, context.num_classes)
            for shape, blocks in zip(shapes, following, strict=True)
        )

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """The student's stages, and what else is named."""
        assert isinstance(config, cls.Config)
        stages = config.student_stages
        named = tuple(stage for stage in stages or () if isinstance(stage, str))
        return Taps(student=named if stages and len(named) == len(stages) else ("stages", *named))

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "logits" and "branches", weighted."""
        assert pairing.teacher_logits is not None
        settings = self.config
        maps = [as_map(pairing.student_features[stage]) for stage in self.stages]
        found = [branch(one) for branch, one in zip(self.branches, maps, strict=True)]
        of_student, *of_branches = (
            ofa_loss(
                logits,
                pairing.teacher_logits,
                pairing.labels,
                epsilon=settings.epsilon,
                temperature=settings.temperature,
            )
            for logits in (pairing.student_logits, *found)
        )
        return {
            "logits": settings.logit_weight * of_student,
            "branches": settings.branch_weight * torch.stack(of_branches).sum(),
        }


def _stages(chosen: tuple[int | str, ...] | None, shapes: TapShapes) -> list[str]:
    """The taps that branches sit on, shallow ones first."""
    numbered = sorted((name for name in shapes if name.startswith("stages.")), key=lambda name: int(name[7:]))
    if chosen is None:
        if _are_of_one_size([shapes[name] for name in numbered]):
            return spread(numbered, min(_MOST_STAGES, len(numbered)))
        return (numbered[1:] or numbered)[-_MOST_STAGES:]
    found = []
    for stage in chosen:
        if isinstance(stage, int) and -len(numbered) <= stage < len(numbered):
            found.append(numbered[stage])
        elif isinstance(stage, str) and stage in shapes:
            found.append(stage)
        else:
            raise UserError(
                f"method 'ofa': student_stages names {stage!r}, but the student has {len(numbered)} stages, numbered "
                f"from 0, and taps at {', '.join(shapes) or 'nothing'}; name one of these"
            )
    if not found:
        raise UserError("method 'ofa': student_stages is empty; name a stage, or leave it out")
    return found


def _are_of_one_size(shapes: Sequence[TapShape]) -> bool:
    """Whether they are maps of a vision transformer, say, rather than of a pyramid."""
    sizes = {(shape.height, shape.width) for shape in shapes}
    return len(shapes) > 1 and len(sizes) == 1 and (None, None) not in sizes


def _width(classifier: nn.Module | None) -> int:
    """What the teacher's classifier takes; 0 where it has none, or another kind."""
    if isinstance(classifier, nn.Linear):
        return classifier.in_features
    return classifier.in_channels if isinstance(classifier, nn.Conv2d) else 0
