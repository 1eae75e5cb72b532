"""A training of so many steps, whatever the number of images: in equal parts, which stand for epochs."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.core.batch import Batch, PlannedBatch
from understudy.data.loaders.base import TrainLoader, planned_batches

__all__ = ["InSteps"]


class InSteps:
    """Another loader's batches, one pass over the images after the other, as parts of so many steps.

    A pass goes on where the part before it ended, so that every image is seen as often as in whole epochs, and the
    augmentation is that of its pass.

    Args:
        loader: whose batches these are.
        steps: of a part.
    """

    def __init__(self, loader: TrainLoader, steps: int) -> None:
        self.steps_per_epoch = steps
        self.batch_size = loader.batch_size
        self.num_samples = loader.num_samples
        self._loader = loader
        self._going: tuple[int, Iterator[Batch | PlannedBatch]] | None = (
            None  # the next step of all, and the pass that has it
        )

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each with the reason."""
        return self._loader.skipped

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of part 1, 2, ... from its step `start_step` on, as if all before had been taken."""
        return (batch.made() for batch in self.planned(epoch, start_step))

    def planned(self, epoch: int, start_step: int = 0) -> Iterator[Batch | PlannedBatch]:
        """The same, where the loader can before they are made."""
        first = (epoch - 1) * self.steps_per_epoch + start_step
        for step in range(first, epoch * self.steps_per_epoch):
            yield self._at(step)

    def _at(self, step: int) -> Batch | PlannedBatch:
        """The batch of a step of all, counted from 0."""
        whole, within = divmod(step, self._loader.steps_per_epoch)
        if self._going is None or self._going[0] != step or within == 0:
            self._going = step, planned_batches(self._loader, whole + 1, within)
        going = self._going[1]
        batch = next(going)
        self._going = step + 1, going
        return batch
