"""What travels through a training step: Batch, Observation, Pairing, Losses.

Letters for shapes, the same everywhere: B images, M predictions (M = B in classification), C classes,
D channels, H W height and width, N training samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from understudy.core.boxes import Boxes
from understudy.core.outputs import changed_outputs

__all__ = ["IMAGES", "MAIN", "Activation", "Batch", "Losses", "Observation", "Pairing", "PlannedBatch"]

MAIN = "main"  # the Pairing that every task has: the predictions that are deployed
IMAGES = "images"  # that of features, a row an image; in classification it is the main one


Activation = Literal["softmax", "sigmoid"]  # what makes probabilities of logits: of a row's classes, or of each class


@dataclass(frozen=True, slots=True)
class Batch:
    """Images as every student of a pass sees them, with what is known about them."""

    images: Tensor  # (B,3,H,W) in [0,1]; normalisation is each model's own first operation
    targets: Any  # (B,) classes, -1 where unlabelled, or (B,C) mixed; Boxes; the task's own form elsewhere
    teacher_images: Tensor | None = None  # the same view at the teacher's input size; None where equal
    indices: Tensor | None = None  # (B,) places in the data set; None from a plain loader of (images, labels)
    copies: Tensor | None = None  # (B,) which simultaneous copy of the sample; 0 is the plain one
    view: int = 0  # which version of the augmentation this epoch is
    num_plain: int | None = None  # so many rows of copy 0 come first, and no others; None: where they are is not known
    repeats: Tensor | None = None  # (B,) which view of its sample, of several in a row (`data.repeats`); all are plain

    @property
    def plain(self) -> slice | Tensor:
        """The rows that are no copies, or are copy 0."""
        return _plain_rows(self.copies, self.num_plain)

    @property
    def draws(self) -> Tensor | None:
        """(B,) which draw of its sample in this view a row shows: its copy, or its repeat; None: the only one."""
        return self.repeats if self.copies is None else self.copies

    @property
    def num_images(self) -> int:
        """B."""
        return len(self.images)

    def made(self) -> Batch:
        """Itself; see `PlannedBatch`."""
        return self

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def select(self, rows: slice) -> Batch:
        """Some of its images."""
        return replace(self._changed(lambda tensor: tensor[rows]), num_plain=None)

    def _changed(self, change: Callable[[Any], Any]) -> Batch:
        changed: dict[str, Any] = {
            name: change(value)
            for name in ("images", "targets", "teacher_images", "indices", "copies", "repeats")
            if isinstance(value := getattr(self, name), Tensor | Boxes)
        }
        return replace(self, **changed)


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch that is still to be made: numbers on the device, and what makes a Batch of them there.

    A step that makes its batch itself can be captured as a CUDA graph together with that: a replay needs the numbers of
    the next batch alone.

    Attributes:
        keys: (n,B) int64, which sample each row is of, and what is drawn for it.
        make: a pure function of the keys, and of what stays where it is; it reads nothing from the device.
        view: which version of the augmentation this epoch is.
        then: what is done to the batch next, in turn.
    """

    keys: Tensor
    make: Callable[[Tensor], Batch]
    view: int = 0
    then: tuple[Callable[[Batch], Batch], ...] = ()

    @property
    def num_images(self) -> int:
        """B of the keys, of which each may stand for several images."""
        return self.keys.shape[1]

    def made(self) -> Batch:
        """The batch."""
        batch = replace(self.make(self.keys), view=self.view)
        for change in self.then:
            batch = change(batch)
        return batch

    def and_then(self, change: Callable[[Batch], Batch]) -> PlannedBatch:
        """The same with another change at its end."""
        return replace(self, then=(*self.then, change))

    def to(self, device: torch.device) -> Batch | PlannedBatch:
        """Itself where it is made on `device`; else the batch, sent there."""
        here = self.keys.device
        return self if here.type == device.type and device.index in (None, here.index) else self.made().to(device)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a teacher leaves after looking at a batch once. Nothing here carries gradient."""

    output: Any = None  # what its network gave: a tensor, or several by name; None where there is no teacher
    features: Mapping[str, Tensor] = field(default_factory=dict)
    ask: Callable[..., Any] | None = None  # a further question about this batch; None from a bank

    def select(self, rows: slice) -> Observation:
        """What was seen of some of the images."""
        features = {name: feature[rows] for name, feature in self.features.items()}
        return replace(self, output=changed_outputs(self.output, lambda tensor: tensor[rows]), features=features)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Student and teacher laid side by side: row i on either side is the same prediction, or the same image.

    Logits are float32 or wider; features keep their model's dtype. The teacher's side is detached. Where predictions
    are parts of an image, its features have a Pairing of their own, with a row an image and logits of no class.
    """

    student_logits: Tensor  # (M,C)
    teacher_logits: Tensor | None  # (M,C_t)
    labels: Tensor  # (M,) class numbers, -1 where unlabelled, or (M,C) mixed
    student_features: Mapping[str, Tensor] = field(default_factory=dict)  # (M,D) or (M,D,H,W) by tap name
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)
    indices: Tensor | None = None  # (M,) places in the data set
    copies: Tensor | None = None  # (M,)
    num_plain: int | None = None  # as of a Batch
    maps: Mapping[str, Tensor] = field(default_factory=dict)  # (M,h,w) by name, such as the "labels" of pixels
    is_ragged: bool = False  # whether images have different numbers of rows
    activation: Activation = "softmax"  # "sigmoid": a prediction may be of several classes, or of none
    has_ignored: bool = False  # whether rows may have no label, which methods on hard labels are not shown then

    @property
    def plain(self) -> slice | Tensor:
        """The rows that are no copies, or are copy 0."""
        return _plain_rows(self.copies, self.num_plain)

    def select(self, rows: slice | Tensor) -> Pairing:
        """Some of the rows: a slice, or row numbers (n,) in the order wanted."""

        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        return Pairing(
            student_logits=self.student_logits[rows],
            teacher_logits=maybe(self.teacher_logits),
            labels=self.labels[rows],
            student_features={name: feature[rows] for name, feature in self.student_features.items()},
            teacher_features={name: feature[rows] for name, feature in self.teacher_features.items()},
            indices=maybe(self.indices),
            copies=maybe(self.copies),
            maps={name: one[rows] for name, one in self.maps.items()},
            is_ragged=self.is_ragged,
            activation=self.activation,
            has_ignored=self.has_ignored,
        )

    def labelled(self) -> Pairing:
        """The rows that have a label; where none has, one that is compared with itself."""
        has_label = self.labels >= 0
        if bool(has_label.any()):
            return replace(self.select(has_label), is_ragged=True, has_ignored=False)
        one = self.select(slice(0, 1))
        itself = None if one.teacher_logits is None else one.student_logits.detach()
        labels = torch.zeros_like(one.labels)
        return replace(one, teacher_logits=itself, labels=labels, is_ragged=True, has_ignored=False)


@dataclass(frozen=True, slots=True)
class Losses:
    """Weighted scalars with gradient, and the unweighted terms for the log."""

    task: Tensor
    distill: Tensor | None  # None where nothing is distilled
    terms: Mapping[str, Tensor]  # detached, by name, before any weight
    parts: Mapping[str, Tensor] = field(default_factory=dict)  # of `distill`, by stream, where an update needs them


def _plain_rows(copies: Tensor | None, num_plain: int | None) -> slice | Tensor:
    """A slice where it is known; how many rows a mask keeps has to be read from the device."""
    if copies is None:
        return slice(None)
    return copies == 0 if num_plain is None else slice(0, num_plain)
