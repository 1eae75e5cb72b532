"""Teacher: what a run asks of whoever teaches, be it a network, a bank of its outputs, or something new."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.batch import Batch, Observation, PlannedBatch
from understudy.core.compile import Compile
from understudy.core.tap_shapes import TapShapes

__all__ = ["KeptScores", "RunTeacher", "Teacher"]


@dataclass(frozen=True)
class KeptScores:
    """What a teacher reached on a split, kept from when it was looked at."""

    scores: Mapping[str, float]  # by metric
    tensors: Mapping[str, Tensor] = field(repr=False)  # what its evaluation kept beside them, by name


class RunTeacher(ABC):
    """The teacher of a run, for all its seeds.

    Attributes:
        name: what messages call it.
        looks_at_images: whether it is shown the images of a batch; one that is looked up is not.
    """

    name: str
    looks_at_images: bool = True

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out about it by looking, for people."""
        return ()

    @property
    def num_views(self) -> int | None:
        """How many views of the training images it can speak of; None: a new one every epoch."""
        return None

    @abstractmethod
    def for_seed(self, seed: int) -> Teacher:
        """Whom the students of a seed learn from."""

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Of its network: model, starts_from, parameters, macs and image_size, as results.json has them."""

    @property
    def origin(self) -> str:
        """Where its weights come from, in words."""
        return str(self.facts()["starts_from"])

    @abstractmethod
    def num_outputs(self, sample: Tensor) -> int | None:
        """How many logits it gives; None where it gives something else.

        Args:
            sample: (B,3,H,W) images as it sees them; only their shape and device matter.
        """

    def limit_views(self, num_views: int | None) -> int | None:
        """Show the first so many views alone, where there are only so many; None: all that every seed has.

        Returns:
            How many there are; None where every epoch has a new one.
        """
        return None

    def kept_scores(self) -> Mapping[str, KeptScores] | None:
        """What it is known to reach, by split; None: it has to be evaluated."""
        return None


class Teacher(RunTeacher):
    """Looks at a batch once and leaves an Observation; nothing in it carries gradient.

    Attributes:
        compile: whether and how torch.compile makes it faster.
    """

    compile: Compile = False

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks that it runs, by what messages call them; none of them may be a part of a student."""
        return {}

    def to(self, device: torch.device) -> None:
        """Look on this device from now on."""

    def for_seed(self, seed: int) -> Teacher:
        """Itself: it says the same whatever the seed."""
        return self

    @abstractmethod
    def tap(self, taps: Iterable[str]) -> None:
        """Return these features, and no others, beside the output from now on."""

    @abstractmethod
    def check_taps(self, taps: Iterable[str]) -> None:
        """Raise the UserError that tapping would, and change nothing."""

    @abstractmethod
    def shapes(self, sample: Tensor) -> TapShapes:
        """Sizes of the tapped features, and what methods may read of the network.

        Args:
            sample: (B,3,H,W) images as it sees them; only their shape and device matter.
        """

    @abstractmethod
    def observe(self, batch: Batch) -> Observation:
        """What the teacher says about the batch."""

    def baked_in(self, batch: Batch | PlannedBatch) -> Hashable:
        """Everything of Python that a recording of this look (a captured CUDA graph) has in it: the view, as a rule."""
        return batch.view

    def release(self) -> None:
        """Let go of what is kept between looks; the next look makes it anew."""
