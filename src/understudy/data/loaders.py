"""train_loader and eval_loader: the right kind of loader for the images at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch

from understudy.config import UserError
from understudy.data.augment import Rendering, augment_for
from understudy.data.augment_config import NoAugment, ResizedCrop
from understudy.data.config import DataConfig
from understudy.data.copies import RotatedCopies
from understudy.data.memory_loader import MemoryEvalLoader, MemoryTrainLoader
from understudy.data.protocols import EvalLoader, TrainLoader
from understudy.data.sources import Source, TensorSource, small_size
from understudy.data.splits import DataSplits
from understudy.data.stream_loader import StreamEvalLoader, StreamTrainLoader
from understudy.step import Batch

__all__ = ["EvalLoader", "PlainLoader", "TrainLoader", "eval_loader", "from_plain_loader", "train_loader"]


def train_loader(
    data: DataSplits | Source,
    config: DataConfig,
    *,
    seed: int,
    image_size: int,
    teacher_size: int | None = None,
    num_views: int | None = None,
    device: torch.device | str = "cpu",
) -> TrainLoader:
    """Shuffled, augmented batches: a function of seed, epoch and sample, whatever the device, workers or start.

    Args:
        data: splits, of which train is taken, or a source of N images.
        config: batch size, augmentation, workers, and what an unreadable image does.
        seed: decides order and augmentation.
        image_size: S of the student's images (B,3,S,S), pixels.
        teacher_size: T of the teacher's (B,3,T,T), the same crop; None where equal.
        num_views: epochs after which the augmentation repeats; None: never.
        device: where batches arrive, and where small images are augmented.

    Raises:
        UserError: drop_last leaves no batch.
    """
    loader = _plain_copies(data, config, seed, image_size, teacher_size, num_views, torch.device(device))
    return RotatedCopies(loader) if config.copies == "rotations" else loader


def _plain_copies(
    data: DataSplits | Source,
    config: DataConfig,
    seed: int,
    image_size: int,
    teacher_size: int | None,
    num_views: int | None,
    device: torch.device,
) -> TrainLoader:
    source = data.train if isinstance(data, DataSplits) else data
    teacher_size = None if teacher_size == image_size else teacher_size
    augment = augment_for(config, source)
    if isinstance(source, TensorSource) and small_size(source) and not isinstance(augment, ResizedCrop):
        return MemoryTrainLoader(
            source,
            config,
            augment,
            seed=seed,
            image_size=image_size,
            teacher_size=teacher_size,
            num_views=num_views,
            device=device,
        )
    rendering = Rendering(augment, image_size, teacher_size)
    return StreamTrainLoader(source, config, rendering, seed=seed, num_views=num_views, device=device)


def eval_loader(
    source: Source,
    config: DataConfig,
    *,
    image_size: int,
    teacher_size: int | None = None,
    device: torch.device | str = "cpu",
) -> EvalLoader:
    """Batches in stored order: small images as they are, large ones resized (shorter side 1.143 S) and cropped.

    Args:
        source: N images, as `DataSplits.val`.
        config: batch size, workers, and what an unreadable image does.
        image_size: S of the student's images (B,3,S,S), pixels.
        teacher_size: T of the teacher's (B,3,T,T); None where equal.
        device: where batches arrive.
    """
    teacher_size = None if teacher_size == image_size else teacher_size
    device = torch.device(device)
    if isinstance(source, TensorSource) and small_size(source):
        return MemoryEvalLoader(source, config, image_size=image_size, teacher_size=teacher_size, device=device)
    return StreamEvalLoader(source, config, Rendering(NoAugment(), image_size, teacher_size), device=device)


class PlainLoader:
    """Any re-iterable of (images, labels) as a TrainLoader and an EvalLoader; order and views are its own.

    Batches carry no indices, so what needs them (banks, contrastive memories, exact resume) cannot be had.
    """

    def __init__(self, batches: Any, device: torch.device | str = "cpu") -> None:
        if not hasattr(batches, "__len__"):
            raise UserError("a plain loader needs a length (steps per epoch); give a DataLoader or a list of batches")
        self.steps_per_epoch = len(batches)
        self.batch_size = int(getattr(batches, "batch_size", None) or _first_size(batches))
        dataset = getattr(batches, "dataset", None)
        self.num_samples = len(dataset) if isinstance(dataset, Sized) else self.steps_per_epoch * self.batch_size
        self.skipped: tuple[str, ...] = ()
        self._batches = batches
        self._device = torch.device(device)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The loader's batches; the first `start_step` are drawn and dropped."""
        for step, (images, labels) in enumerate(self._batches):
            if step >= start_step:
                yield Batch(images=images, targets=labels, view=epoch - 1).to(self._device)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(1)


def from_plain_loader(batches: Iterable[Any], device: torch.device | str = "cpu") -> PlainLoader:
    """A loader of (images (B,3,H,W), labels (B,)) as understudy's own, without indices.

    Raises:
        UserError: it has no length.
    """
    return PlainLoader(batches, device)


def _first_size(batches: Iterable[Any]) -> int:
    return next((len(images) for images, _ in batches), 0)
