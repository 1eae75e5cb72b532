"""Batches of images that are decoded and augmented one by one, in DataLoader workers."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from understudy.core.batch import Batch
from understudy.data.augment.crops import Rendering
from understudy.data.config import DataConfig
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.loaders.workers import num_workers_for
from understudy.data.sources.base import Source, as_unit
from understudy.data.sources.decoding import BadImageError
from understudy.data.sources.found import BadImages
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed
from understudy.utils.seeding import globally_seeded

__all__ = ["StreamEvalLoader", "StreamTrainLoader"]

Place = tuple[int, int, int]  # epoch, position in its order, and copy


class _Item(NamedTuple):
    """One rendered sample; number is -1 where none could be read."""

    image: Tensor  # (3,S,S)
    teacher_image: Tensor | None  # (3,T,T)
    number: int
    copy: int
    skipped: tuple[str, ...]  # unreadable images met on the way, as messages


class _Items(NamedTuple):
    images: Tensor  # (B,3,S,S)
    teacher_images: Tensor | None  # (B,3,T,T)
    indices: Tensor  # (B,)
    copies: Tensor  # (B,)
    skipped: tuple[str, ...]


class _TrainItems(Dataset[_Item]):
    """Sample at a place of an epoch; unreadable ones give way to the next of the epoch's order."""

    def __init__(self, source: Source, rendering: Rendering, plan: EpochPlan, must_stop: bool) -> None:
        self._source = source
        self._rendering = rendering
        self._plan = plan
        self._must_stop = must_stop
        self._epoch = 0  # of the order at hand; a worker meets one epoch after the other
        self._order = torch.empty(0)

    def __getitem__(self, place: Place) -> _Item:
        epoch, position, copy = place
        order = self._order_of(epoch)
        skipped: list[str] = []
        for further in range(len(order)):
            index = int(order[(position + further) % len(order)])
            try:
                return _Item(*self._rendered(index, self._plan.view(epoch), copy), index, copy, tuple(skipped))
            except BadImageError as error:
                skipped.append(str(error))
                if self._must_stop:
                    break
        return _nothing(skipped)

    def _rendered(self, index: int, view: int, copy: int) -> tuple[Tensor, Tensor | None]:
        with globally_seeded(hashed(self._plan.seed, view, copy, index)):
            return self._rendering(self._source.image(index))

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._plan.order(epoch)
        return self._order


class _EvalItems(Dataset[_Item]):
    """Sample by number, without augmentation; an unreadable one is none."""

    def __init__(self, source: Source, rendering: Rendering) -> None:
        self._source = source
        self._rendering = rendering

    def __getitem__(self, index: int) -> _Item:
        try:
            with globally_seeded(hashed("evaluation", index)):
                return _Item(*self._rendering(self._source.image(index)), index, 0, ())
        except BadImageError as error:
            return _nothing([str(error)])


class _Places(Sampler[list[Place]]):
    """Batches of places from a step of an epoch on, copy after copy; both are set before each pass."""

    def __init__(self, plan: EpochPlan) -> None:
        self._plan = plan
        self.epoch = 1
        self.start_step = 0

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.start_step, self._plan.num_steps):
            rows, copies = self._plan.rows(step), range(self._plan.num_copies)
            yield [(self.epoch, position, copy) for copy in copies for position in rows]


class _Gate:
    """Turns items into Batches on the device, and remembers or refuses what could not be read."""

    def __init__(self, source: Source, config: DataConfig, device: torch.device) -> None:
        self.skipped: dict[str, None] = {}  # messages, each once, in the order met
        self._labels = source.labels
        self._must_stop = config.on_bad_image == "stop"
        self._device = device

    def batch(self, items: _Items, view: int = 0, *, has_copies: bool = False) -> Batch | None:
        if items.skipped and self._must_stop:
            raise BadImages(items.skipped, ("image cannot be read", "images cannot be read")).error()
        self.skipped.update(dict.fromkeys(items.skipped))
        if len(items.indices) == 0:
            return None
        copies = items.copies if has_copies else None
        labels = self._labels[items.indices]
        there = Batch(items.images, labels, items.teacher_images, items.indices, copies, view).to(self._device)
        teacher_images = None if there.teacher_images is None else as_unit(there.teacher_images)
        return replace(there, images=as_unit(there.images), teacher_images=teacher_images)


class StreamTrainLoader:
    """A TrainLoader that renders in workers; the same pixels for any number of them.

    Cached images reach the workers without a copy for each: a forked process shares its parent's memory, and torch
    hands tensors to a spawned one through shared memory.
    """

    def __init__(
        self, source: Source, config: DataConfig, rendering: Rendering, plan: EpochPlan, *, device: torch.device
    ) -> None:
        self.batch_size = plan.batch_size
        self.num_samples = plan.num_samples
        self.steps_per_epoch = plan.num_steps
        self._plan = plan
        self._gate = _Gate(source, config, device)
        self._places = _Places(plan)
        items = _TrainItems(source, rendering, plan, config.on_bad_image == "stop")
        self._loader = _loader(items, self._places, config, device, keeps_workers=True)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each once, with the reason."""
        return tuple(self._gate.skipped)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (1, 2, ...) from step `start_step` on; those before are not decoded.

        Raises:
            UserError: an image cannot be read and on_bad_image is "stop", or none at all can be read.
        """
        self._places.epoch, self._places.start_step = epoch, start_step
        for items in self._loader:
            batch = self._gate.batch(items, self._plan.view(epoch), has_copies=self._plan.num_copies > 1)
            if batch is None:
                raise UserError(f"none of the {self.num_samples} training images can be read: {items.skipped[0]}")
            yield batch


class StreamEvalLoader:
    """An EvalLoader that decodes in workers. Images that cannot be read are left out."""

    def __init__(
        self, source: Source, config: DataConfig, rendering: Rendering, share: Share, *, device: torch.device
    ) -> None:
        self.num_samples = len(source)
        self._gate = _Gate(source, config, device)
        rows, size = share.of(range(len(source))), config.eval_batch_size
        batches = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
        self._loader = _loader(_EvalItems(source, rendering), batches, config, device, keeps_workers=False)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each once, with the reason."""
        return tuple(self._gate.skipped)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for items in self._loader:
            batch = self._gate.batch(items)
            if batch is not None:
                yield batch


def _loader(
    items: Dataset[_Item],
    batches: Iterable[list[Any]],
    config: DataConfig,
    device: torch.device,
    *,
    keeps_workers: bool,
) -> DataLoader[Any]:  # what it yields is the collated _Items
    num_workers = num_workers_for(config, items)
    return DataLoader(
        items,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_collated,
        pin_memory=device.type == "cuda",
        persistent_workers=keeps_workers and num_workers > 0,
        worker_init_fn=_leave_interrupts_to_the_main_process,
        generator=torch.Generator(),  # else every pass would draw its base seed from the global generator
    )


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the run finishes its step and needs its workers for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _nothing(skipped: Sequence[str]) -> _Item:
    return _Item(torch.empty(0), None, -1, 0, tuple(skipped))


def _collated(items: list[_Item]) -> _Items:
    good = [item for item in items if item.number >= 0]
    teacher_images = [item.teacher_image for item in good if item.teacher_image is not None]
    return _Items(
        images=torch.stack([item.image for item in good]) if good else torch.empty(0),
        teacher_images=torch.stack(teacher_images) if teacher_images else None,
        indices=torch.tensor([item.number for item in good], dtype=torch.int64),
        copies=torch.tensor([item.copy for item in good], dtype=torch.int64),
        skipped=tuple(message for item in items for message in item.skipped),
    )
