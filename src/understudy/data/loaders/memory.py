"""Batches of small images from one tensor, augmented on the compute device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from understudy.core.batch import Batch, PlannedBatch
from understudy.core.image_size import ImageSize
from understudy.data.augment.batched_crops import NUM_PARTS, Parts
from understudy.data.augment.batched_parts import BatchedParts, scaled_bicubically
from understudy.data.augment.batched_turns import NUM_TURNS, Turns
from understudy.data.augment.config import CropFlip, NoAugment, ResizedCrop, RotateFlip
from understudy.data.augment.crops import Windows, covered
from understudy.data.config import DataConfig
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.sources.base import Source, as_unit, images_in_memory

__all__ = ["MemoryEvalLoader", "MemoryTrainLoader"]


class _Rows(NamedTuple):
    """Which image each row of a batch shows, as of a Batch."""

    indices: Tensor
    copies: Tensor | None = None
    num_plain: int | None = None
    repeats: Tensor | None = None


class _Images:
    """Cached images on the device, rendered at the two input sizes."""

    def __init__(
        self, source: Source, image_size: ImageSize, teacher_size: ImageSize | None, device: torch.device
    ) -> None:
        images = images_in_memory(source)
        assert images is not None
        self.images = images.to(device)
        self.labels = source.labels.to(device)
        self.image_size = image_size
        self.teacher_size = teacher_size

    @property
    def sizes(self) -> list[ImageSize]:
        """The student's and, where it differs, the teacher's."""
        return [self.image_size] if self.teacher_size is None else [self.image_size, self.teacher_size]

    def batch(self, images: Tensor, rows: _Rows) -> Batch:
        unit = as_unit(images)
        return self.rendered([covered(unit, size) for size in self.sizes], rows)

    def rendered(self, pictures: list[Tensor], rows: _Rows) -> Batch:
        return Batch(
            images=pictures[0],
            teacher_images=pictures[1] if len(pictures) > 1 else None,
            targets=self.labels[rows.indices],
            indices=rows.indices,
            copies=rows.copies,
            num_plain=rows.num_plain,
            repeats=rows.repeats,
        )


class MemoryTrainLoader:
    """A TrainLoader over cached small images; nothing runs per image in Python."""

    def __init__(
        self,
        source: Source,
        augment: NoAugment | CropFlip | ResizedCrop | RotateFlip,
        plan: EpochPlan,
        *,
        image_size: ImageSize,
        teacher_size: ImageSize | None,
        device: torch.device,
        parts: BatchedParts | None = None,
        spares_first: bool = False,
    ) -> None:
        self.batch_size = plan.batch_size
        self.num_samples = plan.num_samples
        self.steps_per_epoch = plan.num_steps
        self.skipped: tuple[str, ...] = ()  # unreadable images were left out when the source was cached
        self._stored = _Images(source, image_size, teacher_size, device)
        self._augment = augment
        self._parts = parts  # what follows; all but crop_flip have some, if nothing but their interpolation
        self._spared = int(spares_first and parts is not None)  # copies that it is not done to: the first, or none
        self._plan = plan

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (1, 2, ...) from step `start_step` on."""
        return (planned.made() for planned in self.planned(epoch, start_step))

    def planned(self, epoch: int, start_step: int = 0) -> Iterator[PlannedBatch]:
        """The same before they are made: a row of sample numbers, then what is drawn for each of its copies."""
        plan, view = self._plan, self._plan.view(epoch)
        order, device = plan.order(epoch), self._stored.images.device
        then = [] if self._parts is None else [self._then(order, view).flatten(0, 1).to(device)]
        repeats = [self._copies(len(order)).to(device)] if plan.num_repeats > 1 else []
        keys = torch.cat([order[None].to(device), *repeats, *self._shown(order, view), *then])
        for step in range(start_step, self.steps_per_epoch):
            rows = plan.rows(step)
            yield PlannedBatch(keys[:, rows.start : rows.stop], self._made, view)

    def _made(self, keys: Tensor) -> Batch:
        """The batch of (n,B) keys."""
        indices, count, copies = keys[0], self._plan.num_copies, None
        if count > 1:
            copies = torch.arange(count, device=keys.device)[:, None].expand(-1, len(indices)).flatten()
            indices = indices.repeat(count)
        images, num_plain = self._stored.images[indices], None if copies is None else keys.shape[1]
        repeats, drawn = (keys[1], keys[2:]) if self._plan.num_repeats > 1 else (None, keys[1:])
        rows = _Rows(indices, copies, num_plain, repeats)
        if isinstance(self._augment, NoAugment):
            return self._stored.batch(images, rows)
        num_shown = count * self._num_shown
        shown, then = drawn[:num_shown], drawn[num_shown:]
        if self._parts is None:
            assert isinstance(self._augment, CropFlip)
            images = Windows.unpacked(shown, self._augment, num_copies=count).of(images)
            return self._stored.batch(images, rows)
        spared = self._spared * keys.shape[1]
        then = then.reshape(-1, len(indices) - spared)
        scaled = self._scaled(images, shown, then)
        pictures = [as_unit(picture) for picture in self._parts.of([one[spared:] for one in scaled], then)]
        if spared:
            first = [as_unit(one[:spared]) for one in scaled]
            pictures = [torch.cat(views) for views in zip(first, pictures, strict=True)]
        return self._stored.rendered(pictures, rows)

    def _scaled(self, images: Tensor, shown: Tensor, then: Tensor) -> list[Tensor]:
        """What is shown, at the student's and the teacher's size, each image by the interpolation drawn for it."""
        assert self._parts is not None
        is_cubic = None if self._parts.parts.interpolation == "bilinear" else scaled_bicubically(then)
        if isinstance(self._augment, ResizedCrop):
            parts = Parts.unpacked(shown.reshape(NUM_PARTS, -1))
            as_bytes = self._parts.works_on_bytes
            return parts.within(images, self._stored.sizes, is_cubic=is_cubic, as_bytes=as_bytes)
        if isinstance(self._augment, RotateFlip):
            images = Turns.unpacked(shown.reshape(NUM_TURNS, -1)).of(images)
        else:
            assert isinstance(self._augment, CropFlip)
            images = Windows.unpacked(shown, self._augment, num_copies=self._plan.num_copies).of(images)
        pictures = [covered(images, size) for size in self._stored.sizes]
        if is_cubic is not None:
            cubic = [covered(images, size, interpolation="bicubic") for size in self._stored.sizes]
            which = is_cubic[:, None, None, None]
            pictures = [torch.where(which, one, other) for one, other in zip(cubic, pictures, strict=True)]
        return pictures

    @property
    def _num_shown(self) -> int:
        """Rows of numbers that say what is shown of a copy."""
        if isinstance(self._augment, CropFlip):
            return 2 + self._augment.flip
        return NUM_PARTS if isinstance(self._augment, ResizedCrop) else NUM_TURNS

    def _shown(self, order: Tensor, view: int) -> list[Tensor]:
        """[(R,N)] what is shown of a whole epoch, by copy and place in its order; [] where all is.

        Once an epoch: some thirty small operations on integers, which every batch would wait for on a GPU.
        """
        augment, device = self._augment, self._stored.images.device
        if isinstance(augment, NoAugment):
            return []
        copies = self._copies(len(order))
        if isinstance(augment, CropFlip):
            order, copies = order.to(device), copies.to(device)
            return [Windows.drawn(order, augment, seed=self._plan.seed, view=view, copies=copies).packed()]
        if isinstance(augment, RotateFlip):
            turns = Turns.drawn(order, augment, seed=self._plan.seed, view=view, copies=copies)
            return [turns.packed().flatten(0, 1).to(device)]
        each, copies = (0 * copies + order).flatten(), (copies + 0 * order).flatten()
        sides = torch.tensor([self._stored.images.shape[-2:]]).expand(len(each), -1)
        size = self._stored.image_size
        parts = Parts.drawn(each, sides, augment, seed=self._plan.seed, view=view, copies=copies, size=size)
        return [parts.packed().reshape(-1, len(order)).to(device)]

    def _copies(self, places: int) -> Tensor:
        """(K,1) or (1,N) which draw of its sample each copy or repeat at a place of the order is."""
        if self._plan.num_repeats > 1:  # there are no copies then
            return self._plan.repeat_at(torch.arange(places))[None]
        return torch.arange(self._plan.num_copies)[:, None]

    def _then(self, order: Tensor, view: int) -> Tensor:
        """(P,K,N) what is drawn for what follows, for a whole epoch, by copy it is done to and place in its order."""
        assert self._parts is not None
        seed, size = self._plan.seed, self._stored.image_size
        copies = self._copies(len(order))[self._spared :]
        return self._parts.drawn(order, seed=seed, view=view, copies=copies, size=size)


class MemoryEvalLoader:
    """An EvalLoader over cached small images."""

    def __init__(
        self,
        source: Source,
        config: DataConfig,
        share: Share,
        *,
        image_size: ImageSize,
        teacher_size: ImageSize | None,
        device: torch.device,
    ) -> None:
        self.num_samples = len(source)
        self.skipped: tuple[str, ...] = ()
        self._rows = share.of(range(len(source)))
        self._batch_size = config.eval_batch_size
        self._stored = _Images(source, image_size, teacher_size, device)

    def __len__(self) -> int:
        return -(-len(self._rows) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        device = self._stored.images.device
        for start in self._rows[:: self._batch_size]:
            indices = torch.arange(start, min(start + self._batch_size, self._rows.stop), device=device)
            yield self._stored.batch(self._stored.images[indices], _Rows(indices))
