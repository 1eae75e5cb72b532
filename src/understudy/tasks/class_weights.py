"""What each class counts in the task loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.tasks.base import ClassWeights
from understudy.utils.errors import UserError

__all__ = ["balanced_by_pixels", "checked_weights", "class_weights_for"]


def class_weights_for(setting: ClassWeights, labels: Tensor, num_classes: int) -> Tensor | None:
    """What each class counts, as a recipe's `class_weights` says.

    "balanced" is N / (C * n_c) for the n_c of N labelled training images: all classes together count the same, an
    image 1 on average. A class without images counts as one with one.

    Args:
        setting: of the recipe.
        labels: (N,) of the training images, -1 where unlabelled.
        num_classes: C.

    Returns:
        (C,) float32, or None.

    Raises:
        UserError: no label to count, or a list that does not fit the classes.
    """
    if setting is None:
        return None
    if setting != "balanced":
        return checked_weights(setting, num_classes)
    counts = torch.bincount(labels[labels >= 0].long(), minlength=num_classes)
    if not counts.any():
        raise UserError(
            "class_weights: balanced counts the training labels, and streamed images have none before they are read; "
            "give a list of weights, or leave out data.streaming"
        )
    return (counts.sum() / (num_classes * counts.clamp(min=1).double())).float()


def balanced_by_pixels(counts: Tensor) -> Tensor:
    """N / (C * n_c) for n_c of N labelled pixels: all classes together count the same, a pixel 1 on average.

    Args:
        counts: (C,) pixels of each class; a class without any weighs nothing, and is none of the C.

    Returns:
        (C,) float32.
    """
    found, present = counts.double(), torch.count_nonzero(counts)
    return torch.where(found > 0, found.sum() / (present * found.clamp_min(1)), 0.0).float()


def checked_weights(weights: Tensor | Sequence[float], num_classes: int) -> Tensor:
    """(C,) float32 of numbers that must be at least 0, one of them above.

    Raises:
        UserError: they are not, or not one for each class.
    """
    found = torch.as_tensor(weights, dtype=torch.float32)
    if found.shape != (num_classes,):
        raise UserError(
            f"class_weights: one for each of the {num_classes} classes, in their order, is wanted, but got "
            f"{tuple(found.shape)}; or write balanced"
        )
    if not (found.isfinite().all() and (found >= 0).all() and found.any()):
        raise UserError(f"class_weights must be at least 0, and one of them above, got {found.tolist()}")
    return found
