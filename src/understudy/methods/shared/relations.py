"""What methods on relations between samples share: where they look, inner products, and the order of copies."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.taps import Taps
from understudy.methods.base import Context, MethodConfig, at_least_float32
from understudy.methods.shared.connectors import pooled
from understudy.methods.shared.embeddings import tap_channels
from understudy.utils.errors import UserError

__all__ = [
    "NUM_COPIES",
    "EmbeddingConfig",
    "embedding_channels",
    "embedding_taps",
    "embeddings",
    "inner_products",
    "related_rows",
    "rows_by_copy",
    "sample_rows",
]

NUM_COPIES = 4  # rotations by 0, 90, 180 and 270 degrees


class EmbeddingConfig(MethodConfig):
    """Settings of a method that looks at one feature of either side."""

    student_tap: str = "embedding"  # a map is averaged over its positions
    teacher_tap: str = "embedding"


def embedding_taps(config: MethodConfig) -> Taps:
    """The one tap of either side."""
    assert isinstance(config, EmbeddingConfig)
    return Taps(student=(config.student_tap,), teacher=(config.teacher_tap,))


def embedding_channels(context: Context, config: EmbeddingConfig) -> tuple[int, int]:
    """Channels of the student's and of the teacher's tap.

    Raises:
        UserError: a tap that stands for several features.
    """
    student = tap_channels(context.student, config.student_tap, setting="method.student_tap")
    return student, tap_channels(context.teacher, config.teacher_tap, setting="method.teacher_tap")


def embeddings(pairing: Pairing, config: EmbeddingConfig) -> tuple[Tensor, Tensor]:
    """Pooled features (M, D_s), in the student's dtype, and (M, D_t), detached and in at least float32."""
    teacher = at_least_float32(pairing.teacher_features[config.teacher_tap].detach())
    return pooled(pairing.student_features[config.student_tap]), pooled(teacher)


def sample_rows(features: Tensor) -> Tensor:
    """One row for each sample, in at least float32: maps (M, D, H, W) and tokens (M, N, D) as (M, D * H * W).

    Relations between samples are taken of whole maps, as in the official codes; average them first for the relations
    of means.

    Raises:
        UserError: fewer than two axes.
    """
    if features.ndim < 2:
        raise UserError(
            f"relations between samples need a row for each, (M, D) or (M, D, H, W), but got {tuple(features.shape)}"
        )
    return at_least_float32(features).flatten(1)


def related_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides as `sample_rows`, the teacher's detached.

    Raises:
        UserError: fewer than two axes, or other samples on one side than on the other.
    """
    if student.shape[:1] != teacher.shape[:1]:
        raise UserError(
            f"relations are compared between the same samples, but the student's features are {tuple(student.shape)} "
            f"and the teacher's {tuple(teacher.shape)}; give both a row for each sample, in the same order"
        )
    return sample_rows(student), sample_rows(teacher.detach())


def inner_products(rows: Tensor, others: Tensor) -> Tensor:
    """(..., M, N) products of (..., M, D) rows with (..., N, D) others, in at least float32.

    Autocast would take them in half precision, where sums of squares overflow and small distances cancel.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return at_least_float32(rows) @ at_least_float32(others).mT


def rows_by_copy(copies: Tensor, indices: Tensor) -> Tensor:
    """Places of the rows of copy 0, of copy 1, ..., the same sample at the same place of each, whatever their order.

    Args:
        copies: (M,) numbers 0..3, each on a quarter of the rows.
        indices: (M,) which sample a row shows.

    Returns:
        (4, M / 4) places.

    Raises:
        UserError: M is no multiple of four.
    """
    if len(copies) % NUM_COPIES:
        raise UserError(
            f"{len(copies)} rows cannot be {NUM_COPIES} copies of each sample; set data.copies=rotations, or give "
            "every sample of a batch in all its rotations"
        )
    order = indices.argsort(stable=True)
    return order[copies[order].argsort(stable=True)].view(NUM_COPIES, -1)
