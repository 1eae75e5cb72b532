"""A teacher that is run on every batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import nn

from understudy.step import Batch, Observation
from understudy.taps import TappedModel

__all__ = ["LiveTeacher", "Teacher"]


class Teacher(Protocol):
    """Looks at a batch once and leaves an Observation; nothing in it carries gradient."""

    def observe(self, batch: Batch) -> Observation:
        """What the teacher says about the batch."""


class LiveTeacher:
    """A network in evaluation mode, without gradient, with its own normalisation and input size.

    Args:
        model: any classifier.
        prepare: its first operation on images in [0,1]; None: it takes the images as they are.
        name: what messages call it.
    """

    def __init__(self, model: nn.Module, *, prepare: nn.Module | None = None, name: str = "the teacher") -> None:
        self.name = name
        self.model = TappedModel(model, prepare=prepare, name=name).eval()

    def tap(self, taps: Iterable[str]) -> None:
        """Return these features too from now on. To be called before the model is compiled."""
        self.model = TappedModel(
            self.model.untapped(), taps, prepare=self.model.prepare, name=self.model.model_name
        ).eval()

    def observe(self, batch: Batch) -> Observation:
        """Logits and tapped features of the batch."""
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        # no_grad rather than inference_mode: tensors from the latter cannot be saved for backward.
        with torch.no_grad():
            output, features = self.model.eval()(images)
        return Observation(output=output, features=features)
