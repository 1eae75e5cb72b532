"""Batches of images with boxes as they are rendered, by one process or by workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from understudy.core.batch import Batch
from understudy.core.boxes import Boxes
from understudy.data.augment.boxes import BoxRendering, Shown, moved, padded, padded_size, scaled
from understudy.data.loaders.plan import EpochPlan
from understudy.data.sources.base import Source, as_unit
from understudy.data.sources.boxed import boxes_of_image, size_of_boxed
from understudy.data.sources.decoding import BadImageError

__all__ = ["EvalBoxBatches", "FoundBatch", "TrainBoxBatches", "loaded"]


class _One(NamedTuple):
    """An image as it is shown, and its boxes as they are in its file."""

    image: Tensor  # (3,h,w) uint8
    boxes: Boxes
    shown: Shown
    sample: int


class FoundBatch(NamedTuple):
    """A rendered batch, as it comes from a worker."""

    images: Tensor  # (B,3,H,W) uint8
    boxes: Boxes | None
    indices: Tensor  # (B,)
    skipped: tuple[str, ...]

    def batch(self, device: torch.device, *, view: int = 0) -> Batch:
        """The same on a device, pixels in [0,1]."""
        here = Batch(self.images, self.boxes, indices=self.indices, view=view).to(device)
        return Batch(as_unit(here.images), here.targets, indices=here.indices, view=view)


class TrainBoxBatches(Dataset[FoundBatch]):
    """The steps of an epoch."""

    def __init__(
        self, source: Source, rendering: BoxRendering, plan: EpochPlan, epoch: int, order: Sequence[int]
    ) -> None:
        self._source, self._rendering, self._plan = source, rendering, plan
        self._view, self._order = plan.view(epoch), order

    def __getitem__(self, step: int) -> FoundBatch:
        of_step = self._of_step(step)
        size = padded_size([one.size for one in of_step.values()])
        skipped: list[str] = []
        found = [self._found(position, of_step, skipped) for position in self._plan.rows(step)]
        return _collated([one for one in found if one is not None], size, skipped)

    def canvas(self, step: int) -> tuple[int, int]:
        """Height and width that hold every image of the whole step."""
        return padded_size([one.size for one in self._of_step(step).values()])

    def _of_step(self, step: int) -> dict[int, Shown]:
        """How the images of the whole step are shown, by their numbers."""
        first = step * self._plan.batch_size
        return {index: self._drawn(index) for index in self._order[first : first + self._plan.batch_size]}

    def _drawn(self, index: int) -> Shown:
        file = size_of_boxed(self._source, index)
        return Shown(file, *self._rendering.drawn(file, seed=self._plan.seed, view=self._view, index=index))

    def _found(self, position: int, of_step: Mapping[int, Shown], skipped: list[str]) -> _One | None:
        """The image at this place of the order; of_step says how those of the step are shown."""
        for further in range(len(self._order)):
            index = self._order[(position + further) % len(self._order)]
            try:
                image = self._source.image(index)
            except BadImageError as error:
                skipped.append(str(error))
                continue
            shown = of_step[index] if index in of_step else self._drawn(index)
            return _One(scaled(image, shown), boxes_of_image(self._source, index), shown, index)
        return None


class EvalBoxBatches(Dataset[FoundBatch]):
    """Images in stored order."""

    def __init__(self, source: Source, rendering: BoxRendering, parts: Sequence[range]) -> None:
        self._source, self._rendering, self._parts = source, rendering, parts

    def __getitem__(self, place: int) -> FoundBatch:
        skipped: list[str] = []
        found = []
        for index in self._parts[place]:
            file = size_of_boxed(self._source, index)
            try:
                image = self._source.image(index)
            except BadImageError as error:
                skipped.append(str(error))
                continue
            shown = Shown(file, self._rendering.whole(file))
            found.append(_One(scaled(image, shown), boxes_of_image(self._source, index), shown, index))
        return _collated(found, (1, 1), skipped)


def _collated(found: Sequence[_One], size: tuple[int, int], skipped: list[str]) -> FoundBatch:
    """One batch of the size, or of a larger one where something took the place of an image that cannot be read."""
    if not found:
        return FoundBatch(torch.empty(0), None, torch.empty(0, dtype=torch.int64), tuple(skipped))
    images, boxes, shown, indices = zip(*found, strict=True)
    size = padded_size([size, *(one.size for one in shown)])
    return FoundBatch(padded(images, size), moved(Boxes.packed(boxes), shown), torch.tensor(indices), tuple(skipped))


def loaded(batches: Dataset[FoundBatch], places: range, num_workers: int, device: torch.device) -> Iterator[FoundBatch]:
    """Those batches in turn, rendered by so many processes; 0: by this one."""
    loader = DataLoader(
        batches,
        sampler=list(places),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda" and num_workers > 0,
    )
    yield from loader


def _as_it_is(found: Any) -> Any:
    return found
