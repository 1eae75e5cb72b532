"""SDD: the teacher's verdict on every region of an image, and twice as much of it where it differs from the whole's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.cam import CAM
from understudy.core.taps import Taps
from understudy.methods.base import (
    Context,
    LossWeights,
    Method,
    MethodConfig,
    Paper,
    at_least_float32,
    comparable_logits,
)
from understudy.methods.shared.decoupled import decoupled
from understudy.methods.shared.logits import mean_over_labelled, one_class_a_row
from understudy.methods.shared.maps import as_map
from understudy.utils.errors import UserError, unknown_name

__all__ = ["SDD", "Base", "logits_of_regions", "sdd_loss"]

Base = Literal["dkd", "kd"]

_SCALES = (1, 2, 4)  # squares a side that SDD's SPP can cut an image into
_FINEST = 4  # which it pools to first, whatever the scales


def logits_of_regions(cam: Tensor, logits: Tensor, scales: Sequence[int] = _SCALES) -> Tensor:
    """Logits of the regions of an image, from those of the places in it.

    Wei et al., "Scaled Decoupled Distillation", CVPR 2024: the map is averaged to 4x4 squares, those to 2x2 and to 1x1,
    and the classifier applied to each mean. It is affine, so here means are taken of what it says of each place.

    Args:
        cam: (M, C, H, W), the class activation map, without the classifier's bias.
        logits: (M, C) of the whole image; what they are beside the map's mean is the bias.
        scales: 1, 2 or 4 in any number: squares a side.

    Returns:
        (M, C, N) in the order of the scales, row by row within each; N is 1 + 4 + 16 for all three. Where a map is
        smaller than 4x4, its places are repeated.
    """
    bias = logits - cam.mean(dim=(2, 3))
    squares = F.adaptive_avg_pool2d(cam, _FINEST)
    means = torch.cat([F.adaptive_avg_pool2d(squares, scale).flatten(2) for scale in scales], dim=2)
    return means + bias[:, :, None]


def sdd_loss(
    student_regions: Tensor,
    teacher_regions: Tensor,
    labels: Tensor,
    *,
    base: Base = "dkd",
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    complementary_weight: float = 2.0,
) -> Tensor:
    """Scale decoupled distillation: DKD or KD on each region, more of it where a region tells something else.

    Wei et al., "Scaled Decoupled Distillation", CVPR 2024: T^2 / (M N) * sum over m, n of w_mn d_mn, d the divergence
    of region n of image m, w the complementary weight where the teacher is right about the region and wrong about the
    whole, or the other way round (complementary knowledge), else 1 (consistent knowledge).

    Args:
        student_regions: (M, C, N) logits of N regions, the whole image first; half types are raised to float32.
        teacher_regions: (M, C, N), no gradient flows into it.
        labels: (M,) class numbers in 0..C-1; rows of -1 (unlabelled) count neither in the sum nor in the mean.
        base: dkd takes d = alpha TCKD + beta NCKD, kd Kullback and Leibler's.
        alpha: of dkd.
        beta: of dkd.
        temperature: T > 0.
        complementary_weight: >= 0; 2 in the authors' code.

    Returns:
        Scalar in nats: sum over classes, mean over regions and labelled images; 0 where both sides are equal.

    Raises:
        UserError: the shapes differ or are none of regions, labels are not one class number per image, unknown base.
    """
    if base not in get_args(Base):
        raise UserError(f"base {base!r} is {unknown_name(base, get_args(Base))}")
    student, teacher = comparable_logits(student_regions, teacher_regions, temperature)
    if student.ndim != 3:
        raise UserError(f"sdd takes logits of regions (M, C, N), but got {tuple(student.shape)}; see logits_of_regions")
    classes, is_labelled = one_class_a_row(labels, student, method="sdd")
    num_regions = student.shape[2]
    students, teachers = (side.movedim(1, 2).flatten(0, 1) for side in (student, teacher))  # (M N, C)
    if base == "dkd":
        target = classes.repeat_interleave(num_regions)
        rows = decoupled(students, teachers, target, temperature=temperature, what="sdd")
        divergences = alpha * rows.target + beta * rows.others
    else:
        log_student, log_teacher = (F.log_softmax(side / temperature, dim=1) for side in (students, teachers))
        divergences = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    is_right = teacher.argmax(dim=1) == classes[:, None]  # (M, N)
    weights = torch.where(is_right == is_right[:, :1], 1.0, complementary_weight).to(student.dtype)
    of_images = (weights * divergences.view(-1, num_regions)).mean(dim=1)
    return mean_over_labelled(of_images, is_labelled) * temperature**2


class SDD(Method, name="sdd"):
    """The student learns what the teacher says of the regions of an image, as well as of the whole.

    The classifier of either network is applied to means over the 1, 4 and 16 squares of its last map, and DKD (or KD)
    taken of each: alpha * TCKD + beta * NCKD on (M, C, N) logits of regions and (M,) labels, times T^2: sum over
    classes, mean over regions and labelled images. A region counts twice where the teacher's verdict on it, right or
    wrong, is not that on the whole image. Both classifiers must be given the mean of a map (resnet, wrn, vgg,
    mobilenetv2, shufflenet, efficientnet, regnet, densenet, swin); others are refused when a run is built. The student
    deploys as it is.

    SD-DKD is the default (the golden cases' sdd_dkd), SD-KD `base: kd`. Scales are 1, 2 and 4 for pairs of unlike
    networks in the authors' commands, `scales: [1, 2]` for alike ones. alpha 1, beta 8, T 4, a warm-up of 20 epochs and
    task weight 1 are DKD's in their code, 0.1 and 0.9 without a warm-up those of `base: kd`.

    Differs from: the authors' code changes every network to return logits of regions, applies the classifier to means
    (here means are taken of what it gives at each place, equal up to rounding:
    test_the_classifier_may_be_applied_before_or_after_the_mean), and replaces a loss that is not finite by a constant
    0; here DKD stays in log space. Equal to 1e-12 in float64 elsewhere (golden sdd_dkd). Unlabelled rows (-1) are left
    out, mixed labels refused: there is no right verdict on them. A bank keeps the teacher's class
    activation map, C numbers for each place of its last map, on request (--feature-maps).
    """

    class Config(MethodConfig):
        """Settings of SDD."""

        base: Base = "dkd"  # what is taken of each region: SD-DKD, or kd: SD-KD
        scales: tuple[int, ...] = _SCALES  # squares a side; SDD README: --M [1,2,4], its commands for alike pairs [1,2]
        alpha: float = Field(default=1.0, ge=0)  # of dkd: weight of TCKD; SDD SDD_DKD.py as mdistiller's cfg.py
        beta: float = Field(default=8.0, ge=0)  # of dkd: weight of NCKD; likewise
        temperature: float = Field(default=4.0, gt=0)  # T; mdistiller engine/cfg.py, of DKD and of KD
        complementary_weight: float = Field(default=2.0, ge=0)  # SDD SDD_DKD.py and KD.py: index[gw_lt] = 2.0

        @field_validator("scales")
        @classmethod
        def _are_nested(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
            if scales[:1] != (1,) or sorted(set(scales)) != list(scales) or not set(scales) <= set(_SCALES):
                raise ValueError(f"begins with the whole image: [1], [1, 2], [1, 4] or [1, 2, 4], got {list(scales)}")
            return scales

    paper = Paper(
        authors="Wei, Luo, Luo",
        title="Scaled Decoupled Distillation",
        venue="CVPR",
        year=2024,
        arxiv="2403.13512",
    )
    taps = Taps(student=(CAM,), teacher=(CAM,))
    needs = frozenset({"teacher_logits", "hard_labels"})
    min_classes = 3  # as dkd, under base: kd, too
    default_loss = LossWeights(
        task=1.0, distill=1.0, warmup_epochs=20, source="SDD SDD_DKD.py, train_origin.py: CE 1.0, --warmup 20"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        said = context.teacher[CAM].channels
        if said != context.student[CAM].channels:
            raise UserError(
                f"method 'sdd' compares what both classifiers say of regions, but the teacher's tells {said} classes "
                f"apart and the student's {context.student[CAM].channels}; take a teacher whose last layer has "
                "the data's classes"
            )

    @classmethod
    def default_loss_for(cls, config: MethodConfig) -> LossWeights:
        """Those of what is taken of each region."""
        assert isinstance(config, cls.Config)
        if config.base == "dkd":
            return cls.default_loss
        return LossWeights(task=0.1, distill=0.9, source="SDD KD.py with mdistiller's cfg.py: CE 0.1, KD 0.9")

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "sdd"."""
        settings = self.config
        assert pairing.teacher_logits is not None
        student, teacher = (
            logits_of_regions(as_map(at_least_float32(features[CAM])), logits, settings.scales)
            for features, logits in (
                (pairing.student_features, pairing.student_logits),
                (pairing.teacher_features, pairing.teacher_logits),
            )
        )
        loss = sdd_loss(
            student,
            teacher,
            pairing.labels,
            base=settings.base,
            alpha=settings.alpha,
            beta=settings.beta,
            temperature=settings.temperature,
            complementary_weight=settings.complementary_weight,
        )
        return {"sdd": loss}
