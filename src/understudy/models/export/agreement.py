"""How far what a file says is from what torch says: logits by their size, boxes each by its nearest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["boxes_difference", "logits_difference", "rows_difference"]

Found = Sequence[Tensor]  # (D,4) boxes, (D,) labels and (D,) scores of an image
Raw = Sequence[Tensor]  # (B,A,4) or (B,A,C,4) boxes and (B,A,C) scores of a batch


def logits_difference(found: Tensor, expected: Tensor) -> float:
    """The largest one, relative to the largest logit where that is above 1."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


def boxes_difference(found: Sequence[Found], expected: Sequence[Found], side: int) -> float:
    """Within which 99 of 100 boxes have a counterpart in what the other side found, in scores and in shares of a side.

    One in a hundred may have none: where two boxes are equally sure, rounding decides which of them is left.

    Args:
        found: by image.
        expected: by image.
        side: the longer one of the images, in pixels.

    Returns:
        The larger one of both directions; infinite where one side found nothing at all.
    """
    distances = [
        torch.cat([_distances(one, other, side) for one, other in zip(ours, theirs, strict=True)])
        for ours, theirs in ((found, expected), (expected, found))
    ]
    if not all(map(len, distances)):
        return float("inf") if any(map(len, distances)) else 0.0
    return max(float(torch.quantile(one, 0.99, interpolation="higher")) for one in distances)


def rows_difference(found: Sequence[Raw], expected: Sequence[Raw], side: int) -> float:
    """Within which 99 of 100 rows of raw boxes and scores have a counterpart, in scores and in shares of a side.

    Args:
        found: by batch.
        expected: by batch.
        side: the longer one of the images, in pixels.

    Returns:
        The larger one of both directions.
    """
    nearest: list[Tensor] = []
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(_rows(ours, side), _rows(theirs, side), strict=True):
            apart = torch.cdist(one, other, p=float("inf"))  # (A, other A)
            nearest += [apart.amin(dim=1), apart.amin(dim=0)]
    return max(float(torch.quantile(one, 0.99, interpolation="higher")) for one in nearest)


def _rows(raw: Raw, side: int) -> Tensor:
    """(B,A,K) corners as shares of a side, and scores, beside each other."""
    boxes, scores = (part.float() for part in raw)
    return torch.cat([boxes.flatten(2) / side, scores], dim=2)


def _distances(ours: Found, theirs: Found, side: int) -> Tensor:
    """(D,) of each of our boxes to the nearest of theirs with its label: the larger one of score and corners."""
    boxes, labels, scores = (part.float() for part in ours)
    other_boxes, other_labels, other_scores = (part.float() for part in theirs)
    if not len(other_labels):
        return torch.full((len(labels),), 1.0)
    corners = (boxes[:, None] - other_boxes[None]).abs().amax(dim=2) / side  # (D, other D)
    apart = torch.maximum(corners, (scores[:, None] - other_scores[None]).abs())
    return apart.masked_fill(labels[:, None] != other_labels[None], 1.0).amin(dim=1)
