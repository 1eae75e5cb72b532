"""What passes between a detector and its task: what its heads are asked about, what they say, and what is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from understudy.core.batch import Activation
from understudy.utils.errors import UserError

__all__ = ["Detections", "OtherFamilyError", "Proposals", "Scored"]


class OtherFamilyError(UserError):
    """A head cannot be asked about what a detector of another family proposes; their maps can be compared."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector found on one image: D boxes."""

    boxes: Tensor  # (D,4) x1, y1, x2, y2 in pixels of the image
    scores: Tensor  # (D,)
    labels: Tensor  # (D,) class numbers from 0


@dataclass(frozen=True, slots=True)
class Proposals:
    """What a detector's head is asked about in a training step, M over all images: the rows of its logits."""

    labels: Tensor  # (M,) what each should be called; background is C where the head has a column for it, else -1
    is_object: Tensor  # (M,) booleans: whether it is one
    question: Any  # where they are, as every detector of the family understands it
    own: Any = None  # what the losses of the detector that proposed them need beside
    losses: Mapping[str, Tensor] = field(default_factory=dict)  # of proposing


@dataclass(frozen=True, slots=True)
class Scored:
    """What a head says of proposals."""

    logits: Tensor  # (M,C+1) by class of the data, background last; (M,C) where a class is a sigmoid of its own
    own: Any  # all that the head gave, for its losses
    levels: Mapping[str, Tensor] = field(default_factory=dict)  # (B,A*C,h,w) of heads that look at every position
    activation: Activation = "softmax"  # what makes probabilities of the logits
