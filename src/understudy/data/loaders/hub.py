"""Batches of a stream: files are read in passing by the main process, and rendered by workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import torch

from understudy.data.augment.crops import Rendering
from understudy.data.config import DataConfig
from understudy.data.loaders.by_workers import Sample, WorkerEvalLoader, WorkerTrainLoader
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.sources.decoding import BadImageError, decoded
from understudy.data.sources.streamed import StreamedSource
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


class HubTrainLoader(WorkerTrainLoader[_Row]):
    """A TrainLoader over a stream; its batches carry no indices, and its augmentation never repeats.

    Order and pixels are a function of seed and epoch, whatever the workers. An image that cannot be read gives way to
    the next one of its batch. A start in the middle of an epoch reads and drops what comes before.
    """

    def __init__(
        self, stream: StreamedSource, config: DataConfig, rendering: Rendering, plan: EpochPlan, *, device: torch.device
    ) -> None:
        plan = replace(plan, num_views=None)
        super().__init__(
            _Renderer(rendering, stream, fills_up=True),
            _Batches(stream, plan),
            config,
            plan,
            nothing_read="no image of a batch can be read",
            labels=None,
            device=device,
        )


class HubEvalLoader(WorkerEvalLoader[_Row]):
    """An EvalLoader over a stream; its batches carry no indices."""

    def __init__(
        self, stream: StreamedSource, config: DataConfig, rendering: Rendering, share: Share, *, device: torch.device
    ) -> None:
        super().__init__(
            _Renderer(rendering, stream, fills_up=False),
            _EvalBatches(stream, share.of(range(len(stream))), config.eval_batch_size),
            config,
            num_samples=len(stream),
            labels=None,
            device=device,
        )


class _Renderer:
    """Samples of files.

    Args:
        rendering: what is done to each image.
        stream: says how its files are decoded.
        fills_up: an unreadable image gives way to the next one of its batch; else it is left out.
    """

    def __init__(self, rendering: Rendering, stream: StreamedSource, *, fills_up: bool) -> None:
        self._renderings = (rendering, rendering.of_copy(1))
        self._greys, self._applies_exif = stream.greys, stream.applies_exif
        self._fills_up = fills_up

    def __call__(self, rows: Sequence[_Row], skipped: list[str]) -> list[Sample]:
        found = [self._sample(row, skipped) for row in rows]
        good = [sample for sample in found if sample is not None]
        if not self._fills_up or not good:
            return good
        return [next((sample for sample in found[i:] if sample is not None), good[0]) for i in range(len(rows))]

    def _sample(self, row: _Row, skipped: list[str]) -> Sample | None:
        try:
            with globally_seeded(row.key):
                image = decoded(row.data, row.name, self._greys, applies_exif=self._applies_exif)
                return Sample(*self._renderings[row.copy](image), row.label, row.copy)
        except BadImageError as error:
            skipped.append(str(error))
            return None


class _Batches:
    """Batches of files from a step of an epoch on; both are set before each pass."""

    def __init__(self, stream: StreamedSource, plan: EpochPlan) -> None:
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


class _EvalBatches:
    """Batches of files in the stream's order, of this process's share."""

    def __init__(self, stream: StreamedSource, rows: range, size: int) -> None:
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
