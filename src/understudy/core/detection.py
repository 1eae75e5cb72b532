"""What passes between a detector and its task: boxes proposed, what the head says of them, and what is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Detections", "Proposals", "Scored"]


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector found on one image: D boxes."""

    boxes: Tensor  # (D,4) x1, y1, x2, y2 in pixels of the image
    scores: Tensor  # (D,)
    labels: Tensor  # (D,) class numbers from 0


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes that a detector's head is asked about in a training step, M over all images: the rows of its logits."""

    rois: tuple[Tensor, ...]  # by image, (m,4) x1, y1, x2, y2 in pixels
    sizes: tuple[tuple[int, int], ...]  # by image, its height and width
    labels: Tensor  # (M,) what each should be called; C, behind all classes, is background
    targets: Tensor  # (M,4) what each should be moved by, in the form of the detector that proposed them
    losses: Mapping[str, Tensor] = field(default_factory=dict)  # of proposing


@dataclass(frozen=True, slots=True)
class Scored:
    """What a head says of proposals."""

    logits: Tensor  # (M,C+1) by class of the data, background last
    own_logits: Tensor  # (M,K) as the head has its columns
    deltas: Tensor  # (M,4K) how each box should be moved, in the form of this detector
