"""Several teachers as one: each says something for a head of its own, and the first is asked for features."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from understudy.core.batch import Batch, Observation, PlannedBatch
from understudy.core.outputs import LOGITS, logits_of
from understudy.core.tap_shapes import TapShapes
from understudy.teachers.base import KeptScores, RunTeacher, Teacher
from understudy.utils.errors import UserError

__all__ = ["SeveralRunTeachers", "SeveralTeachers"]

T = TypeVar("T", bound=RunTeacher)


class _Several(RunTeacher, Generic[T]):
    """What is known of several teachers together.

    Args:
        parts: under "logits" the first, others by the head that learns from each; at least one.
    """

    def __init__(self, parts: Mapping[str, T]) -> None:
        self.parts = dict(parts)
        self.first: T = self.parts[LOGITS]
        self.name = _joined(part.name for part in self.parts.values())
        self.looks_at_images = any(part.looks_at_images for part in self.parts.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out about each."""
        return tuple(dict.fromkeys(note for part in self.parts.values() for note in part.notes))

    @property
    def num_views(self) -> int | None:
        """Views that all of them can speak of; None: a new one every epoch."""
        return min((views for part in self.parts.values() if (views := part.num_views) is not None), default=None)

    @property
    def origin(self) -> str:
        """Where the weights of each come from, in words."""
        return "; ".join(dict.fromkeys(part.origin for part in self.parts.values()))

    def facts(self) -> dict[str, Any]:
        """Of all of them together; the image size is the first one's, for which images are made."""
        every = [part.facts() for part in self.parts.values()]
        return {
            "model": _joined(facts["model"] for facts in every),
            "starts_from": "; ".join(dict.fromkeys(facts["starts_from"] for facts in every)),
            "parameters": sum(facts["parameters"] for facts in every),
            "macs": sum(facts["macs"] for facts in every),
            "image_size": every[0]["image_size"],
        }

    def num_outputs(self, sample: Tensor) -> int | None:
        """How many logits the first one gives."""
        return self.first.num_outputs(sample)

    def limit_views(self, num_views: int | None) -> int | None:
        """Let each show the first so many views alone; None: as many as the one has that has fewest."""
        there = [part.limit_views(num_views) for part in self.parts.values()]
        return min((views for views in there if views is not None), default=None)

    def kept_scores(self) -> Mapping[str, KeptScores] | None:
        """What the first one is known to reach."""
        return self.first.kept_scores()


class SeveralTeachers(_Several[Teacher], Teacher):
    """Teachers that look at the same batch: an output by the name of each, and the features of the first."""

    def __init__(self, parts: Mapping[str, Teacher]) -> None:
        super().__init__(parts)
        self.compile = self.first.compile

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks of all of them."""
        return {
            name if head == LOGITS else f"{name}, which {head} learns from": network
            for head, part in self.parts.items()
            for name, network in part.networks.items()
        }

    def to(self, device: torch.device) -> None:
        """Look on this device from now on."""
        for part in self.parts.values():
            part.to(device)

    def tap(self, taps: Iterable[str]) -> None:
        """Return these features of the first."""
        for head, part in self.parts.items():
            part.tap(taps if head == LOGITS else ())

    def check_taps(self, taps: Iterable[str]) -> None:
        """Raise the UserError that tapping the first would, and change nothing."""
        self.first.check_taps(taps)

    def shapes(self, sample: Tensor) -> TapShapes:
        """Of the first.

        Raises:
            UserError: another tells another number of classes apart.
        """
        first = self.first.shapes(sample)
        for head, part in self.parts.items():
            found = part.num_outputs(sample)
            if found != first.num_classes:
                said = "gives no (B,C) logits" if found is None else f"tells {found} classes apart"
                raise UserError(
                    f"{part.name}, which the head {head!r} learns from, {said}, and {self.first.name} tells "
                    f"{first.num_classes}; take teachers of the same classes"
                )
        return first

    def observe(self, batch: Batch) -> Observation:
        """What each says about the batch."""
        seen = {head: part.observe(batch) for head, part in self.parts.items()}
        outputs = {head: logits_of(one.output) for head, one in seen.items()}
        return Observation(output=outputs, features=seen[LOGITS].features)

    def baked_in(self, batch: Batch | PlannedBatch) -> Hashable:
        """What is baked in of each."""
        return tuple(part.baked_in(batch) for part in self.parts.values())

    def release(self) -> None:
        """Let go of what each keeps between looks."""
        for part in self.parts.values():
            part.release()


class SeveralRunTeachers(_Several[RunTeacher]):
    """Teachers that say something else for every seed, as banks do."""

    def for_seed(self, seed: int) -> SeveralTeachers:
        """Those whom the students of a seed learn from."""
        return SeveralTeachers({head: part.for_seed(seed) for head, part in self.parts.items()})


def _joined(names: Iterable[str]) -> str:
    return " and ".join(names)
