"""Intersection over union of label maps: counted image by image, added up, then one number for each class."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from understudy.utils.errors import UserError, unknown_name

__all__ = ["AbsentClass", "class_counts", "class_iou", "mean_iou", "pixel_accuracy"]

AbsentClass = Literal["left_out", "zero"]


def class_counts(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixels by image and class: predicted rightly, predicted, labelled.

    Counts are whole numbers, exact whatever the size of the data, and can be added up over images in any order.

    Args:
        predictions: (N, H, W) class numbers.
        labels: (N, H, W) class numbers; a pixel whose label is outside 0..num_classes - 1 counts nowhere.
        num_classes: C.

    Returns:
        (N, C, 3) int64: intersection, pixels of the prediction, pixels of the labels.

    Raises:
        UserError: maps of different shape.
    """
    if predictions.ndim != 3 or predictions.shape != labels.shape:
        raise UserError(
            f"predictions and labels are maps (N, H, W) of one shape, but got {tuple(predictions.shape)} and "
            f"{tuple(labels.shape)}; bring the predictions to the size of the labels"
        )
    num_images = len(labels)
    flat, truth = predictions.reshape(num_images, -1).long(), labels.reshape(num_images, -1).long()
    is_labelled = (truth >= 0) & (truth < num_classes)
    is_class = is_labelled & (flat >= 0) & (flat < num_classes)
    counts = torch.zeros(num_images, 3, num_classes + 1, dtype=torch.int64, device=labels.device)
    for place, (values, is_counted) in enumerate(
        [(truth, is_labelled & (flat == truth)), (flat, is_class), (truth, is_labelled)]
    ):
        taken = values.masked_fill(~is_counted, num_classes)  # a column that is cut off again
        counts[:, place].scatter_add_(1, taken, torch.ones_like(taken))
    return counts[..., :num_classes].mT


def class_iou(counts: Tensor) -> Tensor:
    """(C,) intersection over union of (C, 3) or (N, C, 3) counts; NaN where neither labels nor predictions have one."""
    totals = counts.flatten(0, -3).sum(dim=0) if counts.ndim > 2 else counts
    intersection, predicted, labelled = totals.double().unbind(dim=-1)
    return intersection / (predicted + labelled - intersection)


def mean_iou(counts: Tensor, *, absent: AbsentClass = "left_out") -> Tensor:
    """Mean over classes of the intersection over union, of counts over all images.

    Args:
        counts: (C, 3) or (N, C, 3) from `class_counts`.
        absent: a class that occurs neither in labels nor in predictions is left out of the mean (torchmetrics,
            mmsegmentation, Cityscapes' scripts), or counts as 0 (the code of DIST and CIRKD).

    Returns:
        Scalar in 0..1, float64; NaN where every class is absent and left out.

    Raises:
        UserError: an unknown `absent`.
    """
    if absent not in get_args(AbsentClass):
        raise UserError(f"absent {absent!r} is {unknown_name(absent, get_args(AbsentClass))}")
    found = class_iou(counts)
    return found.nanmean() if absent == "left_out" else found.nan_to_num(0.0).mean()


def pixel_accuracy(counts: Tensor) -> Tensor:
    """Share of the labelled pixels that are predicted rightly, over all images; scalar in 0..1, float64."""
    intersection, _, labelled = counts.flatten(0, -2).double().sum(dim=0).unbind()
    return intersection / labelled
