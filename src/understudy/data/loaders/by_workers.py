"""Batches of images that DataLoader workers decode and augment one by one, wherever the images come from."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from understudy.core.batch import Batch
from understudy.data.config import DataConfig
from understudy.data.loaders.plan import EpochPlan
from understudy.data.loaders.workers import num_workers_for
from understudy.data.sources.base import as_unit
from understudy.data.sources.found import BadImages
from understudy.utils.errors import UserError

__all__ = ["EpochBatches", "Renderer", "Sample", "WorkerEvalLoader", "WorkerTrainLoader"]

Item = TypeVar("Item")
AskedItem = TypeVar("AskedItem", contravariant=True)


class Sample(NamedTuple):
    """One rendered sample.

    Attributes:
        image: (3,S,S).
        teacher_image: (3,T,T); None where the teacher sees the student's.
        number: of the sample in its source, which knows its label; of a stream, which numbers nothing, its label.
        draw: of its sample in this view, by which it was augmented: which of its copies, or of its repeats.
        mask: (S,S) its class numbers by pixel; None where an image has one label.
    """

    image: Tensor
    teacher_image: Tensor | None
    number: int
    draw: int
    mask: Tensor | None = None


class Renderer(Protocol[AskedItem]):
    """Where samples come from; a copy of it goes to every worker."""

    def __call__(self, items: Sequence[AskedItem], skipped: list[str], /) -> list[Sample]:
        """The samples of a batch's items; a message is added to `skipped` for each image that cannot be read."""


class EpochBatches(Protocol):
    """The items of an epoch's batches from a step on; both are set before each pass."""

    epoch: int
    start_step: int

    def __iter__(self) -> Iterator[Any]: ...


class WorkerLoader(Generic[Item]):
    """What the loaders of training and of evaluation have in common.

    Args:
        renderer: makes samples of items.
        batches: the items of each batch in turn.
        config: workers, and what an unreadable image does.
        labels: (N,) by the numbers of samples; None: their numbers are their labels, and batches have no indices.
        device: where batches arrive.
        keeps_workers: whether they stay for the next pass.
    """

    def __init__(
        self,
        renderer: Renderer[Item],
        batches: Iterable[Sequence[Item]],
        config: DataConfig,
        *,
        labels: Tensor | None,
        device: torch.device,
        keeps_workers: bool = False,
    ) -> None:
        self._skipped: dict[str, None] = {}  # messages, each once, in the order met
        self._must_stop = config.on_bad_image == "stop"
        self._labels = labels
        self._device = device
        self._loader = _loader(_RenderedBatches(renderer), batches, config, device, keeps_workers)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each once, with the reason."""
        return tuple(self._skipped)

    def _passed(self) -> Iterator[_Rendered]:
        """What the workers rendered in one pass; unreadable images are noted, or refused."""
        for found in self._loader:
            if found.skipped and self._must_stop:
                raise BadImages(found.skipped, ("image cannot be read", "images cannot be read")).error()
            self._skipped.update(dict.fromkeys(found.skipped))
            yield found

    def _batch(self, found: _Rendered, view: int = 0, *, plan: EpochPlan | None = None) -> Batch:
        copies = found.draws if plan is not None and plan.num_copies > 1 else None
        repeats = found.draws if plan is not None and plan.num_repeats > 1 else None
        labels, indices = found.numbers, None
        if self._labels is not None:
            labels, indices = self._labels[found.numbers], found.numbers
        if found.masks is not None:
            labels = found.masks
        here = Batch(found.images, labels, found.teacher_images, indices, copies, view, repeats=repeats)
        there = here.to(self._device)
        teacher_images = None if there.teacher_images is None else as_unit(there.teacher_images)
        return replace(there, images=as_unit(there.images), teacher_images=teacher_images)


class WorkerTrainLoader(WorkerLoader[Item]):
    """A TrainLoader that renders in workers; the same pixels for any number of them.

    Args:
        renderer: makes samples of items.
        batches: the items of an epoch's batches.
        config: workers, and what an unreadable image does.
        plan: of the epochs.
        nothing_read: what is said of a batch of which no image can be read.
        labels: as of `WorkerLoader`.
        device: likewise.
        keeps_workers: likewise.
    """

    def __init__(
        self,
        renderer: Renderer[Item],
        batches: EpochBatches,
        config: DataConfig,
        plan: EpochPlan,
        *,
        nothing_read: str,
        labels: Tensor | None,
        device: torch.device,
        keeps_workers: bool = False,
    ) -> None:
        super().__init__(renderer, batches, config, labels=labels, device=device, keeps_workers=keeps_workers)
        self.batch_size = plan.batch_size
        self.num_samples = plan.num_samples
        self.steps_per_epoch = plan.num_steps
        self._plan = plan
        self._batches = batches
        self._nothing_read = nothing_read

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (1, 2, ...) from step `start_step` on; those before are not decoded.

        Raises:
            UserError: an image cannot be read and on_bad_image is "stop", none of a batch can be read, or the source
                ends before the epoch does.
        """
        self._batches.epoch, self._batches.start_step = epoch, start_step
        for found in self._passed():
            if len(found.numbers) == 0:
                raise UserError(f"{self._nothing_read}: {found.skipped[0]}")
            yield self._batch(found, self._plan.view(epoch), plan=self._plan)


class WorkerEvalLoader(WorkerLoader[Item]):
    """An EvalLoader that renders in workers. Images that cannot be read are left out.

    Args:
        renderer: makes samples of items.
        batches: the items of each batch in turn, with a length.
        config: workers, and what an unreadable image does.
        num_samples: N, over all processes.
        labels: as of `WorkerLoader`.
        device: likewise.
    """

    def __init__(
        self,
        renderer: Renderer[Item],
        batches: Iterable[Sequence[Item]],
        config: DataConfig,
        *,
        num_samples: int,
        labels: Tensor | None,
        device: torch.device,
    ) -> None:
        super().__init__(renderer, batches, config, labels=labels, device=device)
        self.num_samples = num_samples

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return (self._batch(found) for found in self._passed() if len(found.numbers))


class _Rendered(NamedTuple):
    images: Tensor  # (B,3,S,S)
    teacher_images: Tensor | None  # (B,3,T,T)
    numbers: Tensor  # (B,)
    draws: Tensor  # (B,)
    skipped: Sequence[str]
    masks: Tensor | None = None  # (B,S,S)


class _RenderedBatches(Dataset[_Rendered], Generic[Item]):
    """Batches of tensors; asked with the items of one in place of a number."""

    def __init__(self, renderer: Renderer[Item]) -> None:
        self._renderer = renderer

    def __getitem__(self, items: Sequence[Item]) -> _Rendered:
        skipped: list[str] = []
        samples = self._renderer(items, skipped)
        masks = [sample.mask for sample in samples if sample.mask is not None]
        teacher_images = [sample.teacher_image for sample in samples if sample.teacher_image is not None]
        return _Rendered(
            images=torch.stack([sample.image for sample in samples]) if samples else torch.empty(0),
            teacher_images=torch.stack(teacher_images) if teacher_images else None,
            numbers=torch.tensor([sample.number for sample in samples], dtype=torch.int64),
            draws=torch.tensor([sample.draw for sample in samples], dtype=torch.int64),
            skipped=tuple(skipped),
            masks=torch.stack(masks) if masks else None,
        )


def _loader(
    rendered: _RenderedBatches[Any], batches: Iterable[Any], config: DataConfig, device: torch.device, keeps: bool
) -> DataLoader[Any]:
    num_workers = num_workers_for(config, rendered)
    return DataLoader(
        rendered,
        sampler=batches,
        batch_size=None,  # the sampler's items are whole batches already
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        persistent_workers=keeps and num_workers > 0,
        worker_init_fn=_leave_interrupts_to_the_main_process,
        generator=torch.Generator(),  # else every pass would draw its base seed from the global generator
    )


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the run finishes its step and needs its workers for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
