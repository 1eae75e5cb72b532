"""Class numbers as labels: what a network of so many classes can learn."""

from __future__ import annotations

from torch import Tensor

from understudy.utils.errors import UserError

__all__ = ["check_labels"]


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels that a network of so many classes cannot learn; reads them back from the device.

    Args:
        labels: (B,) class numbers, -1 where there is none, or (B,C) mixed.
        num_classes: C.

    Raises:
        UserError: naming the label or the number of classes.
    """
    if labels.ndim not in (1, 2):
        raise UserError(f"the labels of a batch have shape {tuple(labels.shape)}; (B,), or (B,C) mixed, is wanted")
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise UserError(f"mixed labels have {labels.shape[1]} classes, but the student has {num_classes}")
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < -1 or highest >= num_classes:
        wrong = lowest if lowest < -1 else highest
        raise UserError(
            f"label {wrong} is outside the student's classes 0..{num_classes - 1}; give the student as many classes "
            "as the data has (-1 marks an image without a label)"
        )
