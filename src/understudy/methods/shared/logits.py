"""What losses on (M, C) logits share: pixels as rows, labels as classes, means over the rows that have a label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.methods.base import refuse_all_but_rows
from understudy.utils.errors import UserError

__all__ = [
    "as_rows",
    "class_and_rest",
    "classes_of",
    "label_cross_entropy",
    "mean_over_labelled",
    "one_class_a_row",
    "other_classes",
]

_UNLABELLED = -1


def as_rows(logits: Tensor) -> Tensor:
    """Pixels as rows: (N, C, ...) to (M, C); (M, C) as it is."""
    return logits.movedim(1, -1).flatten(0, -2)


def classes_of(labels: Tensor, logits: Tensor, *, method: str) -> tuple[Tensor, Tensor]:
    """One class for each row, and which rows have one.

    Args:
        labels: (M,) class numbers, -1 where unlabelled, or (M, C) mixed: the class with the largest share counts.
        logits: (M, C), for their shape only.
        method: who asks, for the message.

    Returns:
        (M,) classes, 0 where there is none, and (M,) booleans.

    Raises:
        UserError: neither shape.
    """
    refuse_all_but_rows(method, logits)
    if labels.shape == logits.shape:
        return labels.argmax(dim=1), torch.ones_like(labels[:, 0], dtype=torch.bool)
    if labels.shape != logits.shape[:1]:
        raise UserError(
            f"{method} needs labels of shape (M,) or (M, C), but got {tuple(labels.shape)} for logits "
            f"{tuple(logits.shape)}; give one class number or one row of shares to each row of logits"
        )
    return labels.long().clamp(min=0), labels >= 0


def one_class_a_row(labels: Tensor, logits: Tensor, *, method: str) -> tuple[Tensor, Tensor]:
    """(M,) classes of (M,) labels, 0 where a row has none, and which rows have one.

    Raises:
        UserError: the labels are no class number for each of the (M, C) logits, as mixed ones are not.
    """
    if labels.shape != logits.shape[:1]:
        raise UserError(
            f"{method} needs one class number per row, but got labels {tuple(labels.shape)} for logits "
            f"{tuple(logits.shape)}; turn label mixing off, or use method 'kd' or 'dist'"
        )
    return labels.long().clamp(min=0), labels >= 0


def other_classes(values: Tensor, taken: Tensor) -> Tensor:
    """The columns of (M, C) values that are not taken, in order: (M, C - K).

    `taken` is (M, K), K different columns in each row. Gathered by computed places: a boolean mask would make the
    host wait for the device.
    """
    places = torch.arange(values.shape[1] - taken.shape[1], device=values.device).expand(len(values), -1)
    for column in taken.sort(dim=1).values.unbind(dim=1):
        places = places + (places >= column[:, None])
    return values.gather(1, places)


def class_and_rest(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of one class against all others, and of the others among themselves.

    Args:
        logits: (M, C) in at least float32, over their temperature.
        classes: (M,) the one class of each row.

    Returns:
        (M, 2), of the class and of any other, and (M, C-1). No probability is formed: log p of the class is
        logsigmoid(its logit - logsumexp(others)), so that a gap of any size stays finite.
    """
    taken = classes[:, None]
    others = other_classes(logits, taken)
    margin = logits.gather(1, taken) - others.logsumexp(dim=1, keepdim=True)
    return torch.cat([F.logsigmoid(margin), F.logsigmoid(-margin)], dim=1), F.log_softmax(others, dim=1)


def mean_over_labelled(rows: Tensor, is_labelled: Tensor) -> Tensor:
    """Mean of (M,) values over the labelled rows; 0, with zero gradient, where there is none."""
    return (rows * is_labelled).sum() / is_labelled.sum().clamp(min=1)


def label_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of (M, C) logits, in nats, mean over the labelled rows; 0 where no row is labelled.

    Labels are (M,) class numbers, -1 where unlabelled, or (M, C) mixed.

    Raises:
        UserError: other shapes.
    """
    if logits.ndim != 2 or labels.shape not in (logits.shape, logits.shape[:1]):
        raise UserError(
            f"the cross-entropy takes logits (M, C) and labels (M,) or (M, C), but got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}; lay out pixels as rows first"
        )
    if labels.ndim == 2:
        return F.cross_entropy(logits, labels.to(logits.dtype), label_smoothing=label_smoothing)
    total = F.cross_entropy(
        logits, labels.long(), ignore_index=_UNLABELLED, reduction="sum", label_smoothing=label_smoothing
    )
    return total / (labels >= 0).sum().clamp(min=1)
