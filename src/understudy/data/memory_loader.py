"""Batches of small images from one tensor, cropped and mirrored on the compute device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from understudy.data.augment import crop_flip, resized
from understudy.data.augment_config import CropFlip, NoAugment
from understudy.data.config import DataConfig
from understudy.data.sampling import epoch_order, num_steps, view_of
from understudy.data.sources import TensorSource, as_unit
from understudy.step import Batch

__all__ = ["MemoryEvalLoader", "MemoryTrainLoader"]


class _Images:
    """Cached images on the device, rendered at the two input sizes."""

    def __init__(self, source: TensorSource, image_size: int, teacher_size: int | None, device: torch.device) -> None:
        self.images = source.images.to(device)
        self.labels = source.labels.to(device)
        self.image_size = image_size
        self.teacher_size = teacher_size

    def batch(self, images: Tensor, indices: Tensor, view: int = 0) -> Batch:
        unit = as_unit(images)
        return Batch(
            images=resized(unit, self.image_size),
            teacher_images=None if self.teacher_size is None else resized(unit, self.teacher_size),
            targets=self.labels[indices],
            indices=indices,
            view=view,
        )


class MemoryTrainLoader:
    """A TrainLoader over cached small images; nothing runs per image in Python."""

    def __init__(
        self,
        source: TensorSource,
        config: DataConfig,
        augment: NoAugment | CropFlip,
        *,
        seed: int,
        image_size: int,
        teacher_size: int | None,
        num_views: int | None,
        device: torch.device,
    ) -> None:
        self.batch_size = config.batch_size
        self.num_samples = len(source)
        self.steps_per_epoch = num_steps(len(source), config)
        self.skipped: tuple[str, ...] = ()  # unreadable images were left out when the source was cached
        self._stored = _Images(source, image_size, teacher_size, device)
        self._augment = augment
        self._seed = seed
        self._num_views = num_views

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (1, 2, ...) from step `start_step` on."""
        order = epoch_order(self.num_samples, seed=self._seed, epoch=epoch).to(self._stored.images.device)
        view = view_of(epoch, self._num_views)
        for step in range(start_step, self.steps_per_epoch):
            indices = order[step * self.batch_size : (step + 1) * self.batch_size]
            images = self._stored.images[indices]
            if isinstance(self._augment, CropFlip):
                images = crop_flip(images, indices, self._augment, seed=self._seed, view=view)
            yield self._stored.batch(images, indices, view)


class MemoryEvalLoader:
    """An EvalLoader over cached small images."""

    def __init__(
        self,
        source: TensorSource,
        config: DataConfig,
        *,
        image_size: int,
        teacher_size: int | None,
        device: torch.device,
    ) -> None:
        self.num_samples = len(source)
        self.skipped: tuple[str, ...] = ()
        self._batch_size = config.eval_batch_size
        self._stored = _Images(source, image_size, teacher_size, device)

    def __len__(self) -> int:
        return -(-self.num_samples // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for indices in torch.split(torch.arange(self.num_samples, device=self._stored.images.device), self._batch_size):
            yield self._stored.batch(self._stored.images[indices], indices)
