"""FSP: the flow of the solution procedure, how the channels of one stage go with those of the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper, at_least_float32
from understudy.methods.shared.maps import as_map, full_precision
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError, unknown_name

__all__ = ["FSP", "Distance", "Pooling", "fsp_loss", "fsp_matrix"]

Pooling = Literal["average", "max"]
Distance = Literal["squared", "column_norm"]


def fsp_loss(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    *,
    pooling: Pooling = "average",
    distance: Distance = "squared",
) -> Tensor:
    """Distance between the FSP matrices of successive stages, student against teacher.

    Yim, Joo, Bae and Kim, "A Gift from Knowledge Distillation", CVPR 2017, eq. 2.

    Args:
        student_features: at least two (M, D, H, W); half types are raised to float32.
        teacher_features: as many, each with the channels of its counterpart; no gradient flows into them. Sizes may
            differ: positions are averaged over.
        pooling: how the larger map of two successive stages is brought to the size of the smaller.
        distance: "squared" is the mean over entries of the squared difference; "column_norm" the sum over columns
            (channels of the later stage) of its Euclidean norm.

    Returns:
        Scalar: sum over successive stages, mean over rows.

    Raises:
        UserError: fewer than two stages, not as many on either side, channels that differ, an unknown choice.
    """
    if len(student_features) != len(teacher_features) or len(student_features) < 2:
        raise UserError(
            f"fsp relates successive stages, but got {len(student_features)} of the student and "
            f"{len(teacher_features)} of the teacher; give the same two or more of either"
        )
    if distance not in get_args(Distance):
        raise UserError(f"distance {distance!r} is {unknown_name(distance, get_args(Distance))}")
    losses = []
    for i in range(1, len(student_features)):
        ours = fsp_matrix(student_features[i - 1], student_features[i], pooling=pooling)
        theirs = fsp_matrix(teacher_features[i - 1].detach(), teacher_features[i].detach(), pooling=pooling)
        if ours.shape != theirs.shape:
            raise UserError(
                f"FSP matrices are {tuple(ours.shape)} and {tuple(theirs.shape)}; give stages with as many channels on "
                "one side as on the other"
            )
        losses.append(_distance(ours - theirs, distance))
    return torch.stack(losses).sum()


def fsp_matrix(earlier: Tensor, later: Tensor, *, pooling: Pooling = "average") -> Tensor:
    """(M, D_1, D_2), mean over positions of the products of (M, D_1, H_1, W_1) and (M, D_2, H_2, W_2)."""
    if pooling not in get_args(Pooling):
        raise UserError(f"pooling {pooling!r} is {unknown_name(pooling, get_args(Pooling))}")
    earlier, later = at_least_float32(as_map(earlier)), at_least_float32(as_map(later))
    size = min(earlier.shape[2], later.shape[2]), min(earlier.shape[3], later.shape[3])
    pool = F.adaptive_avg_pool2d if pooling == "average" else F.adaptive_max_pool2d
    first, second = (maps if maps.shape[2:] == size else pool(maps, size) for maps in (earlier, later))
    with full_precision(first):
        products: Tensor = first.flatten(2) @ second.flatten(2).mT
    return products / (size[0] * size[1])


def _distance(difference: Tensor, distance: Distance) -> Tensor:
    if distance == "squared":
        return difference.square().mean()
    norms: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return norms.sum() / len(difference)


class FSP(StageMethod, name="fsp"):
    """The channels of successive stages go together in the student as they do in the teacher.

    Sum over successive stages of mean (G_s - G_t)^2 over rows and entries, G the (D_i, D_{i+1}) mean over positions
    of the products of two (M, D, H, W) maps; over all stages, the stem among them. Weights 1 task and 50 distill.

    The paper works in two runs: a first one trains the student by FSP alone (`task_weight: 0` in its recipe), a second
    one trains the student that it left (`student.weights: FIRST_RUN`) by the task alone (`method: none`) or by another
    method. Nothing of this method is needed in the second, so it has no setting for it; with the default task
    weight, both are done in one run.

    Differs from: the paper reduces the larger map by maximum (`pooling: max`); RepDistiller, the default here, by
    average. torchdistill has `pooling: max, distance: column_norm` (golden fsp, fsp_torchdistill). All of them
    need stages of equal width on both sides; where a student's stage differs, here a 1x1 convolution brings it there.
    """

    class Config(StageConfig):
        """Settings of FSP."""

        pooling: Pooling = "average"  # as RepDistiller; max in the paper
        distance: Distance = "squared"  # as the paper and RepDistiller

    paper = Paper(
        authors="Yim, Joo, Bae, Kim",
        title="A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning",
        venue="CVPR",
        year=2017,
    )
    has_stem = False
    default_loss = LossWeights(
        task=1.0, distill=50.0, source="RepDistiller run_cifar_distill.sh: -b 50, there in its first stage only"
    )

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        if len(self.pairs) < 2:
            raise UserError(
                f"method 'fsp' relates successive stages, but there is only {self.pairs[0].student} and "
                f"{self.pairs[0].teacher}; name two or more in method.student_stages and method.teacher_stages"
            )
        widths = [(pair.student_shape.channels, pair.teacher_shape.channels) for pair in self.pairs]
        self.connectors = nn.ModuleList(
            nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1) for ours, theirs in widths
        )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "fsp"."""
        student, teacher = self.features(pairing)
        connected = [connector(as_map(maps)) for connector, maps in zip(self.connectors, student, strict=True)]
        return {"fsp": fsp_loss(connected, teacher, pooling=self.config.pooling, distance=self.config.distance)}
