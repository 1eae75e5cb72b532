"""What a loader is, to those who take its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from understudy.core.batch import Batch, PlannedBatch

__all__ = ["EvalLoader", "TrainLoader", "planned_batches"]


class TrainLoader(Protocol):
    """Batches of one epoch after the other."""

    @property
    def batch_size(self) -> int:
        """Samples a batch, over all processes; each may show several images, and the last of an epoch be smaller."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""

    @property
    def num_samples(self) -> int:
        """N, over all processes."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each with the reason."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (1, 2, ...) from step `start_step` on, as if the ones before had been taken."""


class EvalLoader(Protocol):
    """All images, or this process's contiguous share of them, once, in stored order, without augmentation.

    Its length is in batches, of this process.
    """

    @property
    def num_samples(self) -> int:
        """N, over all processes; `Share.of(range(N))` says which of them are this one's."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each with the reason; they are left out."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


def planned_batches(loader: TrainLoader, epoch: int, start_step: int = 0) -> Iterator[Batch | PlannedBatch]:
    """The batches of an epoch from a step on; of a loader that makes them on the device, before they are made.

    Such a loader has a method `planned` beside `epoch`.
    """
    planned: Callable[[int, int], Iterator[Batch | PlannedBatch]] = getattr(loader, "planned", loader.epoch)
    return planned(epoch, start_step)
