"""KDSVD: how the leading singular vectors of successive stages lie to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.methods.base import Context, LossWeights, Paper, at_least_float32
from understudy.methods.shared.maps import as_map, comparable_maps, full_precision
from understudy.methods.shared.singular_vectors import singular_vectors
from understudy.methods.shared.stages import StageConfig, StageMethod
from understudy.utils.errors import UserError, unknown_name

__all__ = ["KDSVD", "VectorAxis", "kdsvd_loss"]

VectorAxis = Literal["columns", "channels"]

_SPARE_VECTORS = 3  # of the student, among which those most like the teacher's are found; as the official codes
_RBF_SCALE = 8.0  # 2 sigma^2 in exp(-d^2 / 8); as the official codes


def kdsvd_loss(
    student_features: Sequence[Tensor],
    teacher_features: Sequence[Tensor],
    *,
    num_vectors: int = 1,
    axis: VectorAxis = "columns",
    teacher_signs: Sequence[Tensor] | None = None,
) -> Tensor:
    """Relations between the singular vectors of successive stages, student against teacher.

    Lee, Kim and Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV 2018. With v_i
    the leading right singular vectors of stage i, scaled by the teacher's singular values (of length 1 together):
    sum over i >= 1 and all entries of (exp(-(v_i - v_{i-1})^2 / 8) of the student - that of the teacher)^2, every
    entry of v_i with every entry of v_{i-1}. The student's vectors are those of its leading num_vectors + 3 that are
    most like the teacher's, turned to point the same way.

    Args:
        student_features: at least two (M, D_s, H_s, W_s); half types are raised to float32.
        teacher_features: as many (M, D_t, H_t, W_t); no gradient flows into them.
        num_vectors: K, how many of the teacher's.
        axis: "columns" takes a map as a (D * H, W) matrix, with the larger map averaged down to the smaller;
            "channels" as (H * W, D), which needs D_s = D_t.
        teacher_signs: one (M, L, K) for each stage, L = W or D: the teacher's vectors point along these. None: the
            entries of each sum to at least 0, which makes the loss independent of the decomposition used.

    Returns:
        Scalar: sum over entries and pairs of stages, mean over rows.

    Raises:
        UserError: fewer than two stages, not as many on either side, channels that differ where they are compared,
            more vectors than a stage has.
    """
    if axis not in get_args(VectorAxis):
        raise UserError(f"axis {axis!r} is {unknown_name(axis, get_args(VectorAxis))}")
    if len(student_features) != len(teacher_features) or len(student_features) < 2:
        raise UserError(
            f"kdsvd relates successive stages, but got {len(student_features)} of the student and "
            f"{len(teacher_features)} of the teacher; give the same two or more of either"
        )
    ours, theirs = [], []
    for number, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True)):
        student, teacher = _matrices(student, teacher, axis)
        with full_precision(student):
            signs = None if teacher_signs is None else teacher_signs[number]
            target, values = _teacher_vectors(teacher, num_vectors, signs)
            ours.append(_aligned(singular_vectors(student, num_vectors + _SPARE_VECTORS), target) * values)
            theirs.append(target * values)
    if len(counts := {vectors.shape[2] for vectors in theirs}) > 1:
        raise UserError(
            f"kdsvd: num_vectors is {num_vectors}, but one of these stages has {min(counts)} singular vectors; "
            "set it to at most that"
        )
    losses = [(_relation(ours, i) - _relation(theirs, i)).square().sum() for i in range(1, len(ours))]
    return torch.stack(losses).sum() / len(ours[0])


def _matrices(student: Tensor, teacher: Tensor, axis: VectorAxis) -> tuple[Tensor, Tensor]:
    """Both maps as (M, A, L), L the same on either side."""
    if axis == "columns":
        student, teacher = comparable_maps(student, teacher)
        return student.flatten(1, 2), teacher.flatten(1, 2)
    student, teacher = at_least_float32(as_map(student)), at_least_float32(as_map(teacher.detach()))
    if student.shape[1] != teacher.shape[1]:
        raise UserError(
            f"kdsvd compares channels, but the student's map has {student.shape[1]} and the teacher's "
            f"{teacher.shape[1]}; take axis 'columns', or stages of equal width"
        )
    return student.flatten(2).mT, teacher.flatten(2).mT


def _teacher_vectors(matrices: Tensor, num_vectors: int, signs: Tensor | None) -> tuple[Tensor, Tensor]:
    """(M, L, K) vectors and their (M, 1, K) singular values, these of length 1 together."""
    vectors = singular_vectors(matrices, num_vectors)
    values = torch.linalg.vector_norm(matrices @ vectors, dim=1, keepdim=True)
    along = (vectors if signs is None else vectors * signs.to(vectors)).sum(dim=1, keepdim=True)
    return torch.where(along < 0, -vectors, vectors), F.normalize(values, dim=2)


def _aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """(M, L, K): for each of the teacher's vectors the student's of the largest |cosine|, turned to point along it."""
    cosines = student.mT @ teacher  # (M, K + 3, K)
    nearest = cosines.abs().argmax(dim=1, keepdim=True)  # (M, 1, K)
    signs = cosines.detach().gather(1, nearest).sign()
    return student.gather(2, nearest.expand(-1, student.shape[1], -1)) * signs


def _relation(vectors: Sequence[Tensor], stage: int) -> Tensor:
    """(M, L_i, L_{i-1}, K): every entry of a stage's vectors against every entry of the one before."""
    return torch.exp(-(vectors[stage][:, :, None] - vectors[stage - 1][:, None]).square() / _RBF_SCALE)


class KDSVD(StageMethod, name="kdsvd"):
    """The leading singular vectors of successive stages lie to each other as the teacher's do.

    Sum over successive stages of (exp(-(v_i - v_{i-1})^2 / 8) of the student - that of the teacher)^2, with v_i the
    leading right singular vectors of the i-th (M, D, H, W) map as a matrix; sum over entries, mean over rows.
    Weights 1 task and 1 distill, over all stages after the stem.

    Differs from: the vectors live on image columns by default, as in mdistiller, which takes the map as a
    (D * H, W) matrix; `axis: channels` is the paper's and RepDistiller's (H * W, D), for stages of equal width
    (golden kdsvd_mdistiller, kdsvd_repdistiller). The sign of a singular vector is arbitrary and enters the official
    loss; here the teacher's vectors have entries that sum to at least 0. The official gradient goes through the SVD
    and is not finite where singular values meet, ours is (test_equal_singular_values_give_finite_gradients), and
    mdistiller computes in float32 always, here float64 stays.
    """

    class Config(StageConfig):
        """Settings of KDSVD."""

        num_vectors: int = Field(default=1, ge=1)  # K; mdistiller engine/cfg.py
        axis: VectorAxis = "columns"  # as mdistiller

    paper = Paper(
        authors="Lee, Kim, Song",
        title="Self-supervised Knowledge Distillation Using Singular Value Decomposition",
        venue="ECCV",
        year=2018,
        arxiv="1807.06819",
    )
    default_loss = LossWeights(task=1.0, distill=1.0, source="mdistiller engine/cfg.py: CE 1.0, FEAT 1.0 (CIFAR-100)")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        if len(self.pairs) < 2:
            raise UserError(
                f"method 'kdsvd' relates successive stages, but there is only {self.pairs[0].student} and "
                f"{self.pairs[0].teacher}; name two or more in method.student_stages and method.teacher_stages"
            )
        if config.axis == "columns":
            self.refuse_single_positions()
        for pair in self.pairs if config.axis == "channels" else []:
            if pair.student_shape.channels != pair.teacher_shape.channels:
                raise UserError(
                    f"method 'kdsvd' compares channels, but {pair.student} of the student is {pair.student_shape} and "
                    f"{pair.teacher} of the teacher {pair.teacher_shape}; set method.axis to columns"
                )

    def forward(self, pairing: Pairing) -> dict[str, Tensor]:
        """The term "kdsvd"."""
        settings = self.config
        return {"kdsvd": kdsvd_loss(*self.features(pairing), num_vectors=settings.num_vectors, axis=settings.axis)}
