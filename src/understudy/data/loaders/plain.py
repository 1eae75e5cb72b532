"""Batches made in Python: any re-iterable of (images, labels) or of Batch, as one of understudy's own loaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from understudy.core.batch import Batch
from understudy.core.boxes import Boxes
from understudy.data.torch_datasets.labels import refuse_several_labels
from understudy.utils.errors import UserError

__all__ = ["PlainLoader", "as_batch", "as_evaluated_batch", "from_plain_loader", "refuse_used_up"]


def as_batch(item: object) -> Batch:
    """What a loader gives, as a Batch with labels that the losses take.

    Args:
        item: (images (B,3,H,W), labels) or a Batch. Labels are class numbers (B,) of any integer type, -1 where there
            is none, shares of classes (B,C), as floating-point numbers or one-hot, or maps of class numbers (B,H,W).

    Raises:
        UserError: it is neither, has no rows, or as many labels as it has no images.
    """
    if isinstance(item, Batch):
        batch = item
    elif isinstance(item, tuple | list) and len(item) == 2:
        batch = Batch(images=item[0], targets=item[1])
    else:
        raise UserError(
            f"a loader gives {_described(item)} as a batch; (images, labels), or understudy.Batch(images=..., "
            "targets=..., indices=...), is wanted"
        )
    if not isinstance(batch.images, Tensor) or batch.images.ndim == 0:
        raise UserError(f"the images of a batch are {_described(batch.images)}; a tensor (B,3,H,W) is wanted")
    if isinstance(batch.targets, Boxes):
        if len(batch.targets) != len(batch.images):
            raise UserError(f"a batch has {len(batch.images)} images and boxes of {len(batch.targets)}")
        return batch
    return replace(batch, targets=_labels(batch.targets, len(batch.images)))


def as_evaluated_batch(item: object) -> Batch:
    """As `as_batch`, several labels of an image refused in every batch: evaluation waits for the device anyway."""
    batch = as_batch(item)
    refuse_several_labels(batch.targets)
    return batch


def refuse_used_up(batches: object, what: str) -> None:
    """Refuse what cannot be gone through, or once only.

    Raises:
        UserError: no iterable, or an iterator, which gives nothing in a second epoch.
    """
    if not isinstance(batches, Iterable):
        raise UserError(f"{what} is {_described(batches)}; a DataLoader or a list of batches is wanted")
    if isinstance(batches, Iterator):
        raise UserError(
            f"{what} is used up when it has been gone through once ({type(batches).__name__}); a plain loader needs a "
            "length (steps per epoch) and gives its batches in every epoch: give a DataLoader or a list of batches"
        )


class PlainLoader:
    """Any re-iterable of (images, labels) or Batch as a TrainLoader and an EvalLoader; order and views are its own.

    Pairs carry no indices, so what needs them (contrastive memories) cannot be had; a Batch may. No bank, and no exact
    resume, in either case.
    """

    def __init__(self, batches: Any, device: torch.device | str = "cpu") -> None:
        refuse_used_up(batches, "the loader")
        try:
            self.steps_per_epoch = len(batches)
        except TypeError:
            raise UserError(
                "a plain loader needs a length (steps per epoch); give a DataLoader or a list of batches (a DataLoader "
                "of an IterableDataset has one where the data set has a __len__)"
            ) from None
        if self.steps_per_epoch == 0:
            raise UserError("the loader is empty: its length is 0 batches")
        self.batch_size = int(getattr(batches, "batch_size", None) or _first_size(batches))
        dataset = getattr(batches, "dataset", None)
        self.num_samples = len(dataset) if isinstance(dataset, Sized) else self.steps_per_epoch * self.batch_size
        self.skipped: tuple[str, ...] = ()
        self._batches = batches
        self._device = torch.device(device)

    @property
    def smallest_batch(self) -> int | None:
        """Images in the smallest batch of an epoch, where that is known before the epoch."""
        if isinstance(self._batches, list | tuple):
            return min(len(as_batch(item).images) for item in self._batches)
        if not isinstance(self._batches, DataLoader) or self._batches.batch_size is None:
            return None
        if isinstance(self._batches.dataset, IterableDataset):
            return None
        sampler: object = self._batches.sampler
        shown = len(sampler) if isinstance(sampler, Sized) else self.num_samples
        last = 0 if self._batches.drop_last else shown % self.batch_size
        return last or min(self.batch_size, shown)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The loader's batches; the first `start_step` are drawn and dropped.

        Raises:
            UserError: they are more or fewer than the loader's length, or the first has several labels for an image.
        """
        given = 0
        for given, item in enumerate(self._batches, 1):
            if given > self.steps_per_epoch:
                raise self._is_not_as_long(epoch, "more")
            batch = as_batch(item)
            if given == 1:  # every batch would wait for a GPU
                refuse_several_labels(batch.targets)
            if given > start_step:
                yield replace(batch, view=epoch - 1).to(self._device)
        if given < self.steps_per_epoch:
            raise self._is_not_as_long(epoch, f"{given} only")

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(1)

    def _is_not_as_long(self, epoch: int, given: str) -> UserError:
        return UserError(
            f"the loader's length is {self.steps_per_epoch} batches, but it gave {given} in epoch {epoch}, so that "
            "schedule and logs would be wrong; its __len__ must be what an epoch gives (that of a DataLoader of an "
            "IterableDataset comes of the data set's __len__)"
        )


def from_plain_loader(batches: Iterable[Any], device: torch.device | str = "cpu") -> PlainLoader:
    """A loader of (images (B,3,H,W), labels (B,)), or of Batch, as understudy's own.

    Raises:
        UserError: it has no length, is empty, or can be gone through once only.
    """
    return PlainLoader(batches, device)


def _first_size(batches: Iterable[Any]) -> int:
    return next((len(as_batch(item).images) for item in batches), 0)


def _labels(labels: object, num_images: int) -> Tensor:
    if not isinstance(labels, Tensor):
        raise UserError(f"the labels of a batch are {_described(labels)}; a tensor of class numbers (B,) is wanted")
    if labels.ndim == 3 and not labels.is_floating_point() and len(labels) == num_images > 0:
        return labels  # a class for every pixel; which classes there are, the task says
    if labels.ndim not in (1, 2):
        raise UserError(f"the labels of a batch have shape {tuple(labels.shape)}; (B,), or (B,C) mixed, is wanted")
    if len(labels) != num_images or num_images == 0:
        raise UserError(f"a batch has {num_images} images and {len(labels)} labels; one for each is wanted")
    if labels.ndim == 2:
        return labels if labels.is_floating_point() else labels.float()
    if labels.is_floating_point() or labels.is_complex():
        raise UserError(
            f"the labels of a batch are {str(labels.dtype).removeprefix('torch.')} numbers; class numbers 0..C-1 as "
            "integers are wanted (labels.long(), where that is what they are)"
        )
    return labels.long()


def _described(item: object) -> str:
    if isinstance(item, Tensor):
        return f"a tensor of shape {tuple(item.shape)}"
    if isinstance(item, Mapping):
        return f"a {type(item).__name__} with {', '.join(map(repr, list(item)[:4]))}"
    return f"a {type(item).__name__} of {len(item)}" if isinstance(item, Sequence) else f"a {type(item).__name__}"
