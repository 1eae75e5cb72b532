"""Imitation of features on the levels of a pyramid, where objects are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from understudy.methods.base import at_least_float32
from understudy.methods.losses.dense import refuse_all_but_maps
from understudy.utils.errors import UserError, unknown_name

__all__ = ["LevelNorm", "fgfi_pyramid_loss"]

LevelNorm = Literal["all", "level"]


def fgfi_pyramid_loss(
    adapted: Sequence[Tensor], teacher: Sequence[Tensor], masks: Sequence[Tensor], *, norm: LevelNorm = "all"
) -> Tensor:
    """Squared distance of features at the masked positions of every level of a pyramid.

    Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019, eq. 2. The paper has
    one level; its factor 1 / (2 N_p) is read in one of two ways: "all" takes for N_p the masked positions of all
    levels and images, "level" divides each level by its own and adds the levels up.

    Args:
        adapted: by level, (B, D, H, W) student features, adapted to the teacher's channels; half types are raised to
            float32.
        teacher: by level, the same shape; no gradient flows into it.
        masks: by level, (B, H, W): a position is in where it is above 0 or True.
        norm: which reading.

    Returns:
        Scalar: sum over channels and masked positions, divided by twice their number; 0 where none is masked.

    Raises:
        UserError: the shapes or the numbers of levels do not fit, or an unknown norm.
    """
    refuse_all_but_maps("fgfi", *adapted, *teacher)
    _refuse_other_levels(adapted, teacher, masks)
    are_in = [(mask > 0)[:, None] for mask in masks]  # (B, 1, H, W)
    sums = [
        ((at_least_float32(ours) - at_least_float32(theirs.detach())).square() * is_in).sum()
        for ours, theirs, is_in in zip(adapted, teacher, are_in, strict=True)
    ]
    counts = torch.stack([is_in.sum() for is_in in are_in])
    if norm == "all":
        return torch.stack(sums).sum() / (2 * counts.sum().clamp(min=1))
    if norm == "level":
        return (torch.stack(sums) / (2 * counts.clamp(min=1))).sum()
    raise UserError(f"norm {norm!r} is {unknown_name(norm, get_args(LevelNorm))}")


def _refuse_other_levels(adapted: Sequence[Tensor], teacher: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    shapes = [[tuple(each.shape) for each in side] for side in (adapted, teacher, masks)]
    of_masks = [(maps[0], *maps[2:]) for maps in shapes[0]]
    if not shapes[0] or shapes[0] != shapes[1] or shapes[2] != of_masks:
        raise UserError(
            "fgfi needs for every level maps (B, D, H, W) of one shape and a mask (B, H, W), but got student "
            f"{shapes[0]}, teacher {shapes[1]} and masks {shapes[2]}; adapt the student to the teacher's channels, and "
            "pair levels of one stride"
        )
