"""Batches of stored images, which every worker reads for itself by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from understudy.data.augment.crops import Rendering
from understudy.data.config import DataConfig
from understudy.data.loaders.by_workers import Sample, WorkerEvalLoader, WorkerTrainLoader
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.sources.base import Source
from understudy.data.sources.decoding import BadImageError
from understudy.utils.hashing import hashed
from understudy.utils.seeding import globally_seeded

__all__ = ["Places", "StreamEvalLoader", "StreamTrainLoader", "TrainRenderer"]

Place = tuple[int, int, int]  # epoch, position in its order, and copy


class StreamTrainLoader(WorkerTrainLoader[Place]):
    """A TrainLoader of stored images; one that cannot be read gives way to the next of the epoch's order.

    Cached images reach the workers without a copy for each: a forked process shares its parent's memory, and torch
    hands tensors to a spawned one through shared memory.
    """

    def __init__(
        self, source: Source, config: DataConfig, rendering: Rendering, plan: EpochPlan, *, device: torch.device
    ) -> None:
        super().__init__(
            _ImageRenderer(source, rendering, plan, config.on_bad_image == "stop"),
            Places(plan),
            config,
            plan,
            nothing_read=f"none of the {plan.num_samples} training images can be read",
            labels=source.labels,
            device=device,
            keeps_workers=True,
        )


class StreamEvalLoader(WorkerEvalLoader[int]):
    """An EvalLoader of stored images."""

    def __init__(
        self, source: Source, config: DataConfig, rendering: Rendering, share: Share, *, device: torch.device
    ) -> None:
        rows, size = share.of(range(len(source))), config.eval_batch_size
        super().__init__(
            _EvalRenderer(source, rendering),
            [list(rows[start : start + size]) for start in range(0, len(rows), size)],
            config,
            num_samples=len(source),
            labels=source.labels,
            device=device,
        )


class TrainRenderer:
    """Samples at places of an epoch; unreadable ones give way to the next of the epoch's order."""

    def __init__(self, source: Source, plan: EpochPlan, must_stop: bool) -> None:
        self._source = source
        self._plan = plan
        self._must_stop = must_stop
        self._epoch = 0  # of the order at hand; a worker meets one epoch after the other
        self._order = torch.empty(0)

    def __call__(self, places: Sequence[Place], skipped: list[str]) -> list[Sample]:
        """The samples of some places; a message is added to `skipped` for each that gave way."""
        found = [self._sample(place, skipped) for place in places]
        return [sample for sample in found if sample is not None]

    def _sample(self, place: Place, skipped: list[str]) -> Sample | None:
        epoch, position, copy = place
        order = self._order_of(epoch)
        for further in range(len(order)):
            index = int(order[(position + further) % len(order)])
            try:
                draw = copy + self._plan.repeat_at(position)  # one of the two is 0
                with globally_seeded(hashed(self._plan.seed, self._plan.view(epoch), draw, index)):
                    return self.rendered(index, draw)
            except BadImageError as error:
                skipped.append(str(error))
                if self._must_stop:
                    break
        return None

    def rendered(self, index: int, draw: int) -> Sample:
        """A draw of a sample, whatever it takes from the global generators. Raises BadImageError: it cannot be read."""
        raise NotImplementedError

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._plan.order(epoch)
        return self._order


class _ImageRenderer(TrainRenderer):
    """Images alone."""

    def __init__(self, source: Source, rendering: Rendering, plan: EpochPlan, must_stop: bool) -> None:
        super().__init__(source, plan, must_stop)
        self._renderings = [rendering.of_copy(copy) for copy in range(plan.num_copies)]

    def rendered(self, index: int, draw: int) -> Sample:
        rendering = self._renderings[min(draw, len(self._renderings) - 1)]  # repeats are all rendered alike
        return Sample(*rendering(self._source.image(index)), index, draw)


class _EvalRenderer:
    """Samples by number, without augmentation; an unreadable one is none."""

    def __init__(self, source: Source, rendering: Rendering) -> None:
        self._source = source
        self._rendering = rendering

    def __call__(self, numbers: Sequence[int], skipped: list[str]) -> list[Sample]:
        found = [self._sample(number, skipped) for number in numbers]
        return [sample for sample in found if sample is not None]

    def _sample(self, index: int, skipped: list[str]) -> Sample | None:
        try:
            with globally_seeded(hashed("evaluation", index)):
                return Sample(*self._rendering(self._source.image(index)), index, 0)
        except BadImageError as error:
            skipped.append(str(error))
            return None


class Places:
    """Batches of places from a step of an epoch on, copy after copy; both are set before each pass."""

    def __init__(self, plan: EpochPlan) -> None:
        self._plan = plan
        self.epoch = 1
        self.start_step = 0

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.start_step, self._plan.num_steps):
            rows, copies = self._plan.rows(step), range(self._plan.num_copies)
            yield [(self.epoch, position, copy) for copy in copies for position in rows]
