"""What tasks whose predictions are parts of an image have in common."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from understudy.core.batch import Batch, Observation, Pairing
from understudy.utils.errors import UserError

__all__ = ["as_rows", "checked_num_classes", "rows_of_images"]


def checked_num_classes(num_classes: int, what: str, *, most: int | None = None) -> int:
    """A number of classes that can be.

    Args:
        num_classes: as it was given.
        what: whose classes these are: "boxes".
        most: of them; None: any number.

    Raises:
        UserError: it is none.
    """
    is_whole = isinstance(num_classes, int) and not isinstance(num_classes, bool)
    if not is_whole or num_classes < 1 or (most is not None and num_classes > most):
        span = "from 1 on" if most is None else f"from 1 to {most}"
        raise UserError(f"num_classes of {what} must be a whole number {span}, got {num_classes!r}")
    return num_classes


def rows_of_images(
    batch: Batch, observation: Observation, features: Mapping[str, Tensor], maps: Mapping[str, Tensor], like: Tensor
) -> Pairing:
    """A row an image with its features on both sides, for methods that look at whole maps.

    Args:
        batch: of B images.
        observation: of the teacher on it.
        features: the student's, (B,D) or (B,D,H,W) by tap name.
        maps: (B,h,w) of the task by name.
        like: logits of the device and dtype that the (B,0) ones of images are to have.
    """
    count = len(batch.images)
    return Pairing(
        student_logits=like.new_zeros(count, 0),
        teacher_logits=None,
        labels=like.new_full((count,), -1, dtype=torch.int64),
        student_features=features,
        teacher_features=observation.features,
        indices=batch.indices,
        maps=maps,
    )


def as_rows(maps: Tensor) -> Tensor:
    """(B*h*w,D) the positions of (B,D,h,w) maps, image after image."""
    return maps.movedim(1, -1).flatten(0, -2)
