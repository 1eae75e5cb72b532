"""HSAKD: at several depths, which class and which rotation an image shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, LossWeights, MethodConfig, Need, Paper, at_least_float32
from understudy.methods.kd import kd_loss
from understudy.methods.shared.relations import NUM_COPIES
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError

__all__ = ["HSAKD", "auxiliary_head", "hsakd_loss", "joint_label_loss"]

_HEADS_LOSS = LossWeights(task=0.0, distill=1.0, source="HSAKD: cross-entropy of every branch, unit weights")


def hsakd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_joint_logits: Sequence[Tensor],
    teacher_joint_logits: Sequence[Tensor],
    *,
    temperature: float = 3.0,
) -> Tensor:
    """Hierarchical self-supervised augmented distillation: KD on the logits and on every auxiliary head's.

    Yang et al., "Hierarchical Self-supervised Augmented Knowledge Distillation", IJCAI 2021, eq. 8 to 10:
    sum over heads l of T^2 KL(q_l^t || q_l^s) + T^2 KL(p^t || p^s), all on all rotations.

    Args:
        student_logits: (M, C), M rotated images; half types are raised to float32, wider ones stay.
        teacher_logits: (M, C), no gradient flows into it.
        student_joint_logits: L tensors (M, 4C), joint classes 4 * class + rotation.
        teacher_joint_logits: L tensors (M, 4C), no gradient flows into them.
        temperature: T > 0 of all softmaxes.

    Returns:
        Scalar in nats: sum over classes and heads, mean over the M rows.

    Raises:
        UserError: shapes differ.
    """
    joint = _joint_divergence(student_joint_logits, teacher_joint_logits, temperature)
    return joint + kd_loss(student_logits, teacher_logits, temperature=temperature)


def joint_label_loss(joint_logits: Sequence[Tensor], labels: Tensor, copies: Tensor) -> Tensor:
    """Cross-entropy of auxiliary heads on joint classes 4 * class + rotation: what the teacher's are trained with.

    Args:
        joint_logits: L tensors (M, 4C); half types are raised to float32.
        labels: (M,) classes; rows of -1 (unlabelled) do not count.
        copies: (M,) rotations 0..3.

    Returns:
        Scalar in nats: sum over heads, mean over the labelled rows; 0 where there are none.
    """
    joint = torch.where(labels >= 0, NUM_COPIES * labels + copies, -1)
    total = [
        F.cross_entropy(at_least_float32(logits), joint, ignore_index=-1, reduction="sum") for logits in joint_logits
    ]
    return torch.stack(total).sum() / (labels >= 0).sum().clamp(min=1)


def auxiliary_head(shapes: Sequence[TapShape], num_classes: int) -> nn.Sequential:
    """Convolutions through the sizes of the stages that follow, pooling, and a classifier of joint classes.

    Args:
        shapes: of the stage it sits on and of those after it.
        num_classes: C; the head has 4C outputs.

    Returns:
        (M, D, H, W) or (M, D) to (M, 4C).
    """
    steps = list(pairwise(shapes)) or [(shapes[0], shapes[0])]  # the last stage gets one block
    blocks = [_block(before, after) for before, after in steps]
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shapes[-1].channels, NUM_COPIES * num_classes)
    )


def _block(before: TapShape, after: TapShape) -> nn.Sequential:
    stride = max(1, round((before.height or 1) / (after.height or 1)))
    return nn.Sequential(
        nn.Conv2d(before.channels, after.channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after.channels),
        nn.ReLU(),
    )


class HSAKD(StageMethod, name="hsakd"):
    """At several stages the student learns the teacher's joint view of class and rotation, and its logits.

    Sum over stages of T^2 KL on the 4C joint classes of auxiliary heads + T^2 KL on the C classes, all on the four
    rotations of each image, so it needs `data.copies: rotations`: sums over classes, means over the 4B rows. Unit
    weights, T = 3, task weight 1 as the authors' on CIFAR-100. Stages are maps (M, D, H, W) of any size, of CNNs or
    ViTs, by default all but the stem; each goes through 3x3 convolutions with the sizes of the stages after it.

    Two runs. `stage: heads` trains the teacher-side heads alone, by cross-entropy on the joint classes; weights are
    task 0 and 1, for the student takes no part (the shipped recipe cifar100/hsakd-heads/resnet32x4-resnet8x4).
    `stage: distill`, with `init_from: RUN` and the same stages, keeps those heads fixed. `stage: together` trains them
    along with the student, in one run: not the authors' protocol.

    Differs from: the authors train the teacher itself together with its heads; here it stays the one that was given.
    Their heads repeat the network's own later stages, ours are one convolution per later stage. Values are the
    authors' (golden hsakd).
    """

    class Config(StageConfig):
        """Settings of HSAKD."""

        stage: Literal["heads", "distill", "together"] = "distill"
        temperature: float = Field(default=3.0, gt=0)  # authors' train_student_cifar.py --kd_T

    student_heads: nn.ModuleList

    paper = Paper(
        authors="Yang, An, Cai, Xu",
        title="Hierarchical Self-supervised Augmented Knowledge Distillation",
        venue="IJCAI",
        year=2021,
        arxiv="2107.13715",
    )
    needs = frozenset({"teacher_logits", "copies"})
    rows = "related"  # batch statistics in the heads
    default_loss = LossWeights(task=1.0, distill=1.0, source="HSAKD train_student_cifar.py: unit weights (CIFAR-100)")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        if config.stage == "distill" and config.init_from is None:
            raise UserError(
                "method 'hsakd' distills through teacher-side heads that are trained first; run it with "
                "method.stage=heads and then give that run as method.init_from, or set method.stage=together"
            )
        self.teacher_heads = _heads([pair.teacher_shape for pair in self.pairs], context.num_classes)
        if config.stage == "distill":
            self.teacher_heads.requires_grad_(False).eval()
        if config.stage != "heads":
            self.student_heads = _heads([pair.student_shape for pair in self.pairs], context.num_classes)

    @classmethod
    def default_loss_for(cls, config: MethodConfig) -> LossWeights:
        """No task loss while the teacher's heads are trained: the student takes no part."""
        assert isinstance(config, cls.Config)
        return _HEADS_LOSS if config.stage == "heads" else cls.default_loss

    @classmethod
    def needs_for(cls, config: MethodConfig) -> frozenset[Need]:
        """Labels where the teacher's heads are trained, its logits where the student is."""
        assert isinstance(config, cls.Config)
        training: frozenset[Need] = frozenset({"hard_labels", "copies"})
        return {"heads": training, "distill": cls.needs, "together": cls.needs | training}[config.stage]

    def train(self, mode: bool = True) -> Self:
        """As for any module, but heads that are trained already keep their statistics."""
        super().train(mode)
        if self.config.stage == "distill":
            self.teacher_heads.eval()
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As for any module, but heads that stay fixed must all be there.

        Raises:
            UserError: the first run trained heads of other stages.
        """
        own = {f"teacher_heads.{name}" for name in self.teacher_heads.state_dict()}
        if self.config.stage == "distill" and not own <= state_dict.keys():
            raise UserError(
                "method.init_from: the run trained teacher-side heads at other stages than these: "
                f"{', '.join(pair.teacher for pair in self.pairs)}; give both runs the same student_stages and "
                "teacher_stages"
            )
        return super().load_state_dict(state_dict, strict, assign)

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The terms "kd" and "joint", and "heads" where the teacher's heads are trained."""
        settings = self.config
        student_features, teacher_features = self.features(pairing)
        teacher_joint = _joint_logits(self.teacher_heads, [feature.detach() for feature in teacher_features])
        terms: dict[str, Tensor] = {}
        if settings.stage != "distill":
            assert pairing.copies is not None
            terms["heads"] = joint_label_loss(teacher_joint, pairing.labels, pairing.copies)
        if settings.stage != "heads":
            assert pairing.teacher_logits is not None
            student_joint = _joint_logits(self.student_heads, student_features)
            temperature = settings.temperature
            terms["kd"] = kd_loss(pairing.student_logits, pairing.teacher_logits, temperature=temperature)
            terms["joint"] = _joint_divergence(student_joint, teacher_joint, temperature)
        return terms


def _heads(shapes: Sequence[TapShape], num_classes: int) -> nn.ModuleList:
    return nn.ModuleList(auxiliary_head(shapes[number:], num_classes) for number in range(len(shapes)))


def _joint_logits(heads: nn.ModuleList, features: Sequence[Tensor]) -> list[Tensor]:
    """(M, 4C) of every head; a vector is a map of one position."""
    maps = [feature[:, :, None, None] if feature.ndim == 2 else feature for feature in features]
    return [head(feature) for head, feature in zip(heads, maps, strict=True)]


def _joint_divergence(student_logits: Sequence[Tensor], teacher_logits: Sequence[Tensor], temperature: float) -> Tensor:
    pairs = zip(student_logits, teacher_logits, strict=True)
    return torch.stack([kd_loss(student, teacher, temperature=temperature) for student, teacher in pairs]).sum()
