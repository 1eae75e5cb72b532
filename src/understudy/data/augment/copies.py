"""Simultaneous copies of a sample, in one batch: each image beside its rotations.

`data.copies: pairs`, a second augmentation beside the first, is not made here: the loaders render each copy from its
own hash (`EpochPlan.num_copies`). Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge
Distillation" (AAAI 2024, table 4), train all CIFAR-100 models "using pairs of augmented images" in two settings: pairs
under RandAugment, and the rotations of SSKD. They publish no code for either. Here a pair is two independent draws of
one and the same `data.augment`, or the second of `data.second_augment`: a weak view and a strong one. Methods see both
rows, and the task's loss, as with rotations, those of copy 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from understudy.core.batch import Batch, PlannedBatch
from understudy.core.image_size import ImageSize, size_of, size_text
from understudy.data.loaders.base import TrainLoader, planned_batches
from understudy.utils.errors import UserError

__all__ = ["RotatedCopies", "refuse_to_turn", "with_rotations"]

NUM_ROTATIONS = 4


def with_rotations(batch: Batch) -> Batch:
    """The batch in four blocks, block k turned by k times 90 degrees; `copies` says which row is which.

    Xu et al., "Knowledge Distillation Meets Self-Supervision", ECCV 2020, section 3.2. Rows with equal `indices` show
    the same sample in the same view.

    Raises:
        UserError: the images are no squares.
    """
    for images in (batch.images, batch.teacher_images):
        if images is not None:
            refuse_to_turn(size_of(images.shape))
    return Batch(
        images=_rotated(batch.images),
        teacher_images=None if batch.teacher_images is None else _rotated(batch.teacher_images),
        targets=torch.cat([batch.targets] * NUM_ROTATIONS),
        indices=None if batch.indices is None else batch.indices.repeat(NUM_ROTATIONS),
        copies=torch.arange(NUM_ROTATIONS, device=batch.images.device).repeat_interleave(len(batch.images)),
        view=batch.view,
        num_plain=len(batch.images),
    )


class RotatedCopies:
    """A TrainLoader whose every batch comes with its rotations."""

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader
        self.batch_size = loader.batch_size  # samples; each gives four images
        self.steps_per_epoch = loader.steps_per_epoch
        self.num_samples = loader.num_samples

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that could not be read so far, each with the reason."""
        return self._loader.skipped

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The loader's batches, each with its rotations."""
        return (batch.made() for batch in self.planned(epoch, start_step))

    def planned(self, epoch: int, start_step: int = 0) -> Iterator[Batch | PlannedBatch]:
        """The same, where the loader can before they are made."""
        for batch in planned_batches(self._loader, epoch, start_step):
            yield batch.and_then(with_rotations) if isinstance(batch, PlannedBatch) else with_rotations(batch)


def refuse_to_turn(size: ImageSize) -> None:
    """Refuse images that are no squares: turned by 90 degrees they would not fit into one batch.

    Raises:
        UserError: saying so.
    """
    if isinstance(size, tuple):
        raise UserError(
            f"data.copies: rotations turns images by 90 degrees, which takes squares, and these are {size_text(size)} "
            "pixels; set data.image_size to one number (of a data set in Python: resize its images), or take a method "
            "without turned copies"
        )


def _rotated(images: Tensor) -> Tensor:
    return torch.cat([images.rot90(turns, (2, 3)) for turns in range(NUM_ROTATIONS)])
