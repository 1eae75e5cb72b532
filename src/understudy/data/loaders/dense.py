"""Batches of images with masks: windows of both in training, whole images in evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from understudy.data.augment.dense import DenseRendering, masked_image
from understudy.data.config import DataConfig
from understudy.data.loaders.by_workers import Sample, WorkerEvalLoader, WorkerTrainLoader
from understudy.data.loaders.disk import Places, TrainRenderer
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.sources.base import Source
from understudy.data.sources.decoding import BadImageError
from understudy.data.sources.masked import size_of_image

__all__ = ["DenseEvalLoader", "DenseTrainLoader"]

MOST_PIXELS = 2**20  # of a batch that is evaluated, whose logits have as many values as classes for each


class DenseTrainLoader(WorkerTrainLoader[tuple[int, int, int]]):
    """A TrainLoader of images with masks; one that cannot be read gives way to the next of the epoch's order."""

    def __init__(
        self, source: Source, config: DataConfig, rendering: DenseRendering, plan: EpochPlan, *, device: torch.device
    ) -> None:
        super().__init__(
            _MaskedRenderer(source, rendering, plan, config.on_bad_image == "stop"),
            Places(plan),
            config,
            plan,
            nothing_read=f"none of the {plan.num_samples} training images, or of their masks, can be read",
            labels=source.labels,
            device=device,
            keeps_workers=True,
        )


class DenseEvalLoader(WorkerEvalLoader[int]):
    """An EvalLoader of whole images, neighbours of one size together, and of masks at the size of their files."""

    def __init__(
        self, source: Source, config: DataConfig, rendering: DenseRendering, share: Share, *, device: torch.device
    ) -> None:
        super().__init__(
            _WholeRenderer(source, rendering),
            list(_of_one_size(source, share.of(range(len(source))), config.eval_batch_size)),
            config,
            num_samples=len(source),
            labels=source.labels,
            device=device,
        )


class _MaskedRenderer(TrainRenderer):
    """Windows of images and masks."""

    def __init__(self, source: Source, rendering: DenseRendering, plan: EpochPlan, must_stop: bool) -> None:
        super().__init__(source, plan, must_stop)
        self._rendering = rendering

    def rendered(self, index: int, draw: int) -> Sample:
        image, mask = self._rendering(*masked_image(self._source, index))
        return Sample(image, None, index, draw, mask)


class _WholeRenderer:
    """Whole images and masks by number; one that cannot be read is none."""

    def __init__(self, source: Source, rendering: DenseRendering) -> None:
        self._source = source
        self._rendering = rendering

    def __call__(self, numbers: Sequence[int], skipped: list[str]) -> list[Sample]:
        found = []
        for number in numbers:
            try:
                image, mask = masked_image(self._source, number)
            except BadImageError as error:
                skipped.append(str(error))
                continue
            found.append(Sample(self._rendering.whole(image), None, number, 0, mask))
        return found


def _of_one_size(source: Source, rows: range, most: int) -> Iterator[list[int]]:
    """The rows in order, in batches of neighbours that have one size."""
    batch: list[int] = []
    size: tuple[int, int] | None = None
    for row in rows:
        try:
            own: tuple[int, int] | None = size_of_image(source, row)
        except BadImageError:
            own = None  # whoever reads it says so
        room = min(most, max(1, MOST_PIXELS // (own[0] * own[1]))) if own else 1
        if batch and (own != size or len(batch) >= room):
            yield batch
            batch = []
        batch, size = [*batch, row], own
    if batch:
        yield batch
