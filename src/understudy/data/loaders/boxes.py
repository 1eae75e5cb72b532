"""Batches of images with boxes, padded to one size that depends on the whole step and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from understudy.core.batch import Batch
from understudy.data.augment.boxes import BoxRendering, common_canvas, padded_size
from understudy.data.loaders.box_batches import EvalBoxBatches, TrainBoxBatches, loaded
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.sources.base import Source
from understudy.data.sources.boxed import size_of_boxed
from understudy.data.sources.found import BadImages
from understudy.utils.errors import UserError

__all__ = ["BoxEvalLoader", "BoxTrainLoader", "grouped_order", "images_at_once", "refuse_others_padding"]

MOST_PIXELS = 2**23  # of a batch that is evaluated: eight photographs of 800 x 1333


class BoxTrainLoader:
    """A TrainLoader of images with boxes; one that cannot be read gives way to the next of the epoch's order.

    Size, mirroring and order are functions of seed, view and sample, so any number of workers gives the same batches.
    A batch is padded to what the images of the whole step need, on all processes alike, so that batch norms and
    borders do not depend on their number.

    Where views repeat and not every batch is padded alike, whole epochs do, in the same batches: a view is an image
    with its padding then, so that it can be told by seed, view and sample alone, as a bank does.

    Args:
        source: of the images.
        rendering: at what sizes they are shown.
        batch_size: images a step, over all processes.
        seed: of order, sizes and mirroring.
        num_views: epochs after which they repeat; None: never.
        num_workers: processes that read images; 0: this one does.
        share: this process's part of every batch.
        drop_last: whether a last batch that is smaller is left out; one that has less images than processes is.
        must_stop: whether an image that cannot be read stops the epoch.
        aspect_groups: whether upright images and others fill batches of their own, as far as they go.
        device: where batches arrive.

    Raises:
        UserError: fewer images than a batch, where the last one is left out, or than processes.
    """

    def __init__(
        self,
        source: Source,
        rendering: BoxRendering,
        *,
        batch_size: int,
        seed: int = 0,
        num_views: int | None = None,
        num_workers: int = 0,
        share: Share | None = None,
        drop_last: bool = True,
        must_stop: bool = False,
        aspect_groups: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        share = share or Share()
        full, rest = divmod(len(source), batch_size)
        steps = full + (not drop_last and rest >= share.world_size)
        if steps == 0 or batch_size < share.world_size:
            raise UserError(
                f"no batch is left of {len(source)} images: {batch_size} a step, {share.world_size} processes; take a "
                "smaller batch size, or drop_last=False"
            )
        self.batch_size, self.num_samples, self.steps_per_epoch = batch_size, len(source), steps
        self._plan = EpochPlan(len(source), batch_size, steps, seed, num_views, 1, share)
        self._source, self._rendering, self._num_workers = source, rendering, num_workers
        self._device = torch.device(device)
        are_asked = aspect_groups or num_views is not None
        sizes = [size_of_boxed(source, i) for i in range(len(source))] if are_asked else []
        self._is_upright = [height > width for height, width in sizes] if aspect_groups else []
        self._repeats_batches = num_views is not None and common_canvas(sizes, rendering) is None
        self._must_stop = must_stop
        self._skipped: dict[str, None] = {}

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each once, with the reason."""
        return tuple(self._skipped)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (1, 2, ...) from step `start_step` on; those before are not read.

        Raises:
            UserError: no image can be read, or one cannot and it must stop.
        """
        batches = self._batches(epoch)
        steps = range(start_step, self.steps_per_epoch)
        for found in loaded(batches, steps, self._num_workers, self._device):
            self._skipped.update(dict.fromkeys(found.skipped))
            if self._repeats_batches:
                refuse_others_padding(found.skipped)
            if self._must_stop and found.skipped:
                raise BadImages(found.skipped, ("image cannot be read", "images cannot be read")).error()
            if not len(found.indices):
                raise UserError(f"none of the {self.num_samples} training images can be read: {found.skipped[0]}")
            yield found.batch(self._device, view=self._plan.view(epoch))

    def canvases(self, epoch: int) -> Iterator[tuple[tuple[int, int], int]]:
        """Of each batch of an epoch, the height and width that it is padded to and its images; no pixel is read."""
        batches = self._batches(epoch)
        for step in range(self.steps_per_epoch):
            yield batches.canvas(step), len(self._plan.rows(step))

    def _batches(self, epoch: int) -> TrainBoxBatches:
        order = self._plan.order(self._plan.view(epoch) + 1 if self._repeats_batches else epoch).tolist()
        if self._is_upright:
            order = grouped_order(order, [self._is_upright[index] for index in order], self.batch_size)
        return TrainBoxBatches(self._source, self._rendering, self._plan, epoch, order)


def refuse_others_padding(skipped: Sequence[str]) -> None:
    """Refuse images that cannot be read, where a batch must be padded as it was, or will be, another time.

    Raises:
        UserError: there are some.
    """
    if skipped:
        way_out = (
            "what takes their place changes the padding of their batch, which a bank of a detector belongs to; put "
            "them right, or take them out of the annotations and make the bank of what is left"
        )
        raise BadImages(skipped, ("image cannot be read", "images cannot be read")).error(way_out=way_out)


def grouped_order(order: Sequence[int], is_upright: Sequence[bool], batch_size: int) -> list[int]:
    """The same samples in another order: a batch of one kind as soon as it is full, what is left over at the end.

    Args:
        order: samples in turn.
        is_upright: of which kind each of them is.
        batch_size: B.
    """
    waiting: tuple[list[int], list[int]] = ([], [])
    found: list[int] = []
    for index, upright in zip(order, is_upright, strict=True):
        waiting[upright].append(index)
        if len(waiting[upright]) == batch_size:
            found += waiting[upright]
            waiting[upright].clear()
    return [*found, *waiting[False], *waiting[True]]


def images_at_once(source: Source, rendering: BoxRendering, most: int) -> int:
    """How many images are evaluated at once, by the largest of them: up to `most`, and to 8 million pixels."""
    sizes = [rendering.whole(size_of_boxed(source, i)) for i in range(len(source))]
    height, width = padded_size(sizes)
    return max(1, min(most, MOST_PIXELS // (height * width)))


class BoxEvalLoader:
    """An EvalLoader of images with boxes, neighbours padded to one size; those that cannot be read are left out.

    Args:
        source: of the images.
        rendering: at what size they are evaluated.
        batch_size: images a batch.
        num_workers: processes that read images; 0: this one does.
        share: this process's part of the images.
        device: where batches arrive.
    """

    def __init__(
        self,
        source: Source,
        rendering: BoxRendering,
        *,
        batch_size: int = 8,
        num_workers: int = 0,
        share: Share | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        rows = (share or Share()).of(range(len(source)))
        self.num_samples = len(source)
        self._parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        self._batches = EvalBoxBatches(source, rendering, self._parts)
        self._num_workers, self._device = num_workers, torch.device(device)
        self._skipped: dict[str, None] = {}

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each once, with the reason."""
        return tuple(self._skipped)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        are_any = False
        for found in loaded(self._batches, range(len(self)), self._num_workers, self._device):
            self._skipped.update(dict.fromkeys(found.skipped))
            if len(found.indices):
                are_any = True
                yield found.batch(self._device)
        if not are_any and len(self._skipped) == self.num_samples:
            raise UserError(f"none of the {self.num_samples} images to evaluate on can be read: {self.skipped[0]}")
