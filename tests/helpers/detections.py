"""Boxes of one image, and what a detector found on it, written as rows."""

from __future__ import annotations

import torch

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections


def truth(*boxes: tuple[float, float, float, float, int], crowd: tuple[int, ...] = ()) -> Boxes:
    """Corners and class of each box; numbers of those that are crowds."""
    corners = torch.tensor([box[:4] for box in boxes]).reshape(-1, 4)
    labels = torch.tensor([box[4] for box in boxes], dtype=torch.int64)
    are_crowds = torch.tensor([number in crowd for number in range(len(boxes))], dtype=torch.bool)
    return Boxes.of_image(corners, labels, (400, 400), crowd=are_crowds)


def found(*boxes: tuple[float, float, float, float, int, float]) -> Detections:
    """Corners, class and score of each detection."""
    rows = torch.tensor([box[:4] for box in boxes]).reshape(-1, 4)
    scores, labels = torch.tensor([box[5] for box in boxes]), torch.tensor([box[4] for box in boxes], dtype=torch.int64)
    return Detections(rows, scores, labels)
