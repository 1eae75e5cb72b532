"""Batches of a stream: files are read in passing by the main process, decoded and augmented in workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from understudy.core.batch import Batch
from understudy.data.augment.crops import Rendering
from understudy.data.config import DataConfig
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.loaders.workers import num_workers_for
from understudy.data.sources.base import as_unit
from understudy.data.sources.decoding import BadImageError, decoded
from understudy.data.sources.found import BadImages
from understudy.data.sources.greys import Greys
from understudy.data.sources.hub_stream import HubStream
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed
from understudy.utils.seeding import globally_seeded

__all__ = ["HubEvalLoader", "HubTrainLoader"]


class _Row(NamedTuple):
    """One image file on its way to a worker."""

    data: bytes
    label: int
    key: int  # of the augmentation
    copy: int
    name: str


class _Rendered(NamedTuple):
    images: Tensor  # (B,3,S,S)
    teacher_images: Tensor | None  # (B,3,T,T)
    labels: Tensor  # (B,)
    copies: Tensor  # (B,)
    skipped: tuple[str, ...]


class _Renderer(Dataset[_Rendered]):
    """Turns a batch of files into a batch of tensors; asked with the files themselves in place of a number.

    Args:
        rendering: what is done to each image.
        greys: the range that greys of more than 8 bits are scaled from.
        fills_up: an unreadable image gives way to the next one of its batch; else it is left out.
    """

    def __init__(self, rendering: Rendering, greys: Greys | None, *, fills_up: bool) -> None:
        self._rendering = rendering
        self._greys = greys
        self._fills_up = fills_up

    def __getitem__(self, rows: Sequence[_Row]) -> _Rendered:
        skipped: list[str] = []
        found = [self._rendered(row, skipped) for row in rows]
        good = [i for i, item in enumerate(found) if item is not None]
        if self._fills_up and good:
            good = [next((j for j in good if j >= i), good[0]) for i in range(len(rows))]
        pairs = [pair for i in good if (pair := found[i]) is not None]
        teacher_images = [image for _, image in pairs if image is not None]
        return _Rendered(
            images=torch.stack([image for image, _ in pairs]) if pairs else torch.empty(0),
            teacher_images=torch.stack(teacher_images) if teacher_images else None,
            labels=torch.tensor([rows[i].label for i in good], dtype=torch.int64),
            copies=torch.tensor([rows[i].copy for i in good], dtype=torch.int64),
            skipped=tuple(skipped),
        )

    def _rendered(self, row: _Row, skipped: list[str]) -> tuple[Tensor, Tensor | None] | None:
        try:
            with globally_seeded(row.key):
                return self._rendering(decoded(row.data, row.name, self._greys))
        except BadImageError as error:
            skipped.append(str(error))
            return None


class _Batches:
    """Batches of files from a step of an epoch on; both are set before each pass."""

    def __init__(self, stream: HubStream, plan: EpochPlan) -> None:
        self.epoch = 1
        self.start_step = 0
        self._stream = stream
        self._plan = plan

    def __iter__(self) -> Iterator[list[_Row]]:
        plan, place = self._plan, 0
        rows = self._stream.rows(seed=hashed(plan.seed, "order"), epoch=self.epoch)
        for step in range(plan.num_steps):
            here = list(islice(rows, plan.batch_size))
            mine = [place_ - place for place_ in plan.rows(step)]
            if mine[-1] >= len(here):
                raise UserError(
                    f"the train stream ended after {place + len(here)} of {plan.num_samples} images; "
                    f"set data.train_rows=0:{place + len(here)}"
                )
            if step >= self.start_step:
                yield [self._row(*here[i], place + i, copy) for copy in range(plan.num_copies) for i in mine]
            place += len(here)

    def _row(self, data: bytes, label: int, place: int, copy: int) -> _Row:
        key = hashed(self._plan.seed, self.epoch - 1, copy, place)
        return _Row(data, label, key, copy, f"image {place} of epoch {self.epoch} of the train stream")


class _Gate:
    """Turns what workers rendered into Batches without indices, and remembers or refuses what could not be read."""

    def __init__(self, config: DataConfig, device: torch.device) -> None:
        self.skipped: dict[str, None] = {}
        self._must_stop = config.on_bad_image == "stop"
        self._device = device

    def batch(self, found: _Rendered, view: int = 0, *, has_copies: bool = False) -> Batch | None:
        if found.skipped and self._must_stop:
            raise BadImages(found.skipped, ("image cannot be read", "images cannot be read")).error()
        self.skipped.update(dict.fromkeys(found.skipped))
        if len(found.labels) == 0:
            return None
        return Batch(
            images=as_unit(found.images.to(self._device, non_blocking=True)),
            targets=found.labels.to(self._device, non_blocking=True),
            teacher_images=None if found.teacher_images is None else as_unit(found.teacher_images.to(self._device)),
            copies=found.copies.to(self._device) if has_copies else None,
            view=view,
        )


class HubTrainLoader:
    """A TrainLoader over a stream; its batches carry no indices.

    Order and pixels are a function of seed and epoch, whatever the workers. An image that cannot be read gives way to
    the next one of its batch. A start in the middle of an epoch reads and drops what comes before.
    """

    def __init__(
        self, stream: HubStream, config: DataConfig, rendering: Rendering, plan: EpochPlan, *, device: torch.device
    ) -> None:
        self.batch_size = plan.batch_size
        self.num_samples = plan.num_samples
        self.steps_per_epoch = plan.num_steps
        self._plan = plan
        self._gate = _Gate(config, device)
        self._batches = _Batches(stream, plan)
        self._loader = _loader(_Renderer(rendering, stream.greys, fills_up=True), self._batches, config, device)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each with the reason."""
        return tuple(self._gate.skipped)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (1, 2, ...) from step `start_step` on.

        Raises:
            UserError: the stream ends early, no image of a batch can be read, or any under on_bad_image: stop.
        """
        self._batches.epoch, self._batches.start_step = epoch, start_step
        for found in self._loader:
            batch = self._gate.batch(found, epoch - 1, has_copies=self._plan.num_copies > 1)
            if batch is None:
                raise UserError(f"no image of a batch can be read: {found.skipped[0]}")
            yield batch


class _EvalBatches:
    """Batches of files in the stream's order, of this process's share."""

    def __init__(self, stream: HubStream, rows: range, size: int) -> None:
        self._stream = stream
        self._rows = rows
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._rows) // self._size)

    def __iter__(self) -> Iterator[list[_Row]]:
        mine = islice(enumerate(self._stream.rows()), self._rows.start, self._rows.stop)
        kept = (_Row(data, label, hashed("evaluation", i), 0, self._stream.name(i)) for i, (data, label) in mine)
        while batch := list(islice(kept, self._size)):
            yield batch


class HubEvalLoader:
    """An EvalLoader over a stream. Images that cannot be read are left out."""

    def __init__(
        self, stream: HubStream, config: DataConfig, rendering: Rendering, share: Share, *, device: torch.device
    ) -> None:
        self.num_samples = len(stream)
        self._gate = _Gate(config, device)
        self._batches = _EvalBatches(stream, share.of(range(len(stream))), config.eval_batch_size)
        self._loader = _loader(_Renderer(rendering, stream.greys, fills_up=False), self._batches, config, device)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each with the reason."""
        return tuple(self._gate.skipped)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for found in self._loader:
            batch = self._gate.batch(found)
            if batch is not None:
                yield batch


def _loader(renderer: _Renderer, batches: Any, config: DataConfig, device: torch.device) -> DataLoader[Any]:
    return DataLoader(
        renderer,
        sampler=batches,
        batch_size=None,  # the sampler's items are whole batches already
        num_workers=num_workers_for(config, renderer),
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_interrupts_to_the_main_process,
        generator=torch.Generator(),  # else every pass would draw its base seed from the global generator
    )


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
