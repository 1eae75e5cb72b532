"""Labels of data sets made in Python: those that the samples have, read from a list only where that is the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.datasets import VisionDataset

from understudy.data.torch_datasets.samples import Taker, is_hugging_face, sample_name
from understudy.utils.errors import UserError
from understudy.utils.seeding import globally_seeded

__all__ = ["labels_of", "listed_labels", "refuse_several_labels"]

_LISTS = ("targets", "labels", "_labels")  # what torchvision's data sets call the list of their labels


def labels_of(dataset: Any, taker: Taker) -> Tensor:
    """(N,) int64, those that the samples have; of a data set whose own list is surely the same, that list.

    A list is trusted of torchvision's own classes (without a transform of labels), TensorDataset, a Hugging Face data
    set without a transform, and Subset and ConcatDataset of these. Of all others every sample is read once.

    Raises:
        UserError: a label that is no class number, several labels of one image, or one that cannot be read.
    """
    listed = listed_labels(dataset, taker)
    if listed is not None and _holds(listed, dataset, taker):
        return listed
    with globally_seeded(0):  # a transform may draw, and must not move what others draw from
        return torch.tensor([_label_of(dataset, i, taker) for i in range(len(dataset))], dtype=torch.int64)


def listed_labels(dataset: Any, taker: Taker) -> Tensor | None:
    """(N,) int64, from a list beside the samples; None where there is none, or samples may have others.

    A Subset or TensorDataset of a class of its own may give other labels than the one that it is made of.
    """
    if type(dataset) is Subset:
        listed = listed_labels(dataset.dataset, taker)
        return None if listed is None else listed[torch.as_tensor(dataset.indices)]
    if type(dataset) is ConcatDataset:
        parts = [listed_labels(part, taker) for part in dataset.datasets]
        there = [part for part in parts if part is not None]
        return torch.cat(there) if len(there) == len(parts) else None
    if type(dataset) is TensorDataset:
        return _as_class_numbers(dataset.tensors[1]) if len(dataset.tensors) > 1 else None
    if is_hugging_face(dataset):
        return _listed_in_column(dataset, taker)
    if not _is_untouched(dataset) or _may_relabel(dataset):
        return None
    found: Any = next((known for name in _LISTS if (known := getattr(dataset, name, None)) is not None), None)
    if found is None or len(found) != len(dataset) or (len(found) and isinstance(found[0], str)):
        return None
    return _as_class_numbers(torch.as_tensor(found))


def _listed_in_column(dataset: Any, taker: Taker) -> Tensor | None:
    if dataset.format["type"] == "custom" or taker.label_column not in dataset.column_names:
        return None
    column = dataset.with_format(None)[taker.label_column][:]
    if any(not isinstance(label, int) for label in column):
        return torch.tensor([_one_label(label) for label in column], dtype=torch.int64)
    return torch.tensor(column, dtype=torch.int64)


def _is_untouched(dataset: Any) -> bool:
    """Whether samples come from torchvision's own code, though perhaps through a subclass of it."""
    return isinstance(dataset, VisionDataset) and type(dataset).__getitem__.__module__.startswith("torchvision.")


def _may_relabel(dataset: Any) -> bool:
    """Whether a transform in torchvision's manner may give the samples other labels than `targets`."""
    if getattr(dataset, "target_transform", None) is not None:
        return True
    joint = getattr(dataset, "transforms", None)
    return getattr(joint, "target_transform", joint) is not None


def _holds(listed: Tensor, dataset: Any, taker: Taker) -> bool:
    """Whether the first, middle and last sample have the listed labels; one that cannot be read tells nothing."""
    with globally_seeded(0):
        for i in sorted({0, len(dataset) // 2, len(dataset) - 1}):
            try:
                sample = dataset[i]
            except OSError:
                continue
            if _one_label(taker.label(sample)) != int(listed[i]):
                return False
    return True


def _label_of(dataset: Any, i: int, taker: Taker) -> int:
    try:
        sample = dataset[i]
    except OSError as error:  # what PIL raises at a damaged file
        beside = _beside(dataset, i)
        if beside is not None:
            return beside
        raise UserError(
            f"{sample_name(dataset, i)}: {error}, so its label is not known; take it away, or list the labels as "
            "`targets`"
        ) from None
    return _one_label(taker.label(sample))


def _beside(dataset: Any, i: int) -> int | None:
    """By the list `targets`, the label of a sample that cannot be read; None without one that is surely the same."""
    listed = None if _may_relabel(dataset) else getattr(dataset, "targets", None)
    return None if listed is None or len(listed) != len(dataset) else _one_label(listed[i])


def _as_class_numbers(labels: Tensor) -> Tensor:
    if labels.ndim != 1:
        raise _is_no_class("the labels have", labels.shape, labels[0] if len(labels) else None)
    if labels.is_floating_point() and (fractions := (labels != labels.round()).nonzero()).numel():
        raise _is_fraction(float(labels[int(fractions[0])]))
    return labels.to(torch.int64)


def _one_label(label: Any) -> int:
    if isinstance(label, str):
        raise _is_no_number(label)
    shape = tuple(getattr(label, "shape", ()))
    if isinstance(label, list | tuple | set):
        raise UserError(f"a label is a {type(label).__name__} of {len(label)}; {_ONE_IS_WANTED}; {_NOT_THERE_YET}")
    if math.prod(shape) != 1:
        raise _is_no_class("a label has", shape, label)
    try:
        number = int(label)
        is_whole = number == float(label)
    except (TypeError, ValueError, OverflowError):
        kind = type(label).__name__
        raise UserError(f"a label is of type {kind}; {_ONE_IS_WANTED}") from None
    if not is_whole:
        raise _is_fraction(float(label))
    return number


_ONE_IS_WANTED = "one class number for each image is wanted"
_NOT_THERE_YET = "several labels of one image (multi-label classification) are not there yet"


def refuse_several_labels(targets: Any) -> None:
    """Refuse targets (B,C) of a loader whose rows are no distributions over the classes.

    Raises:
        UserError: a row is negative somewhere or does not add up to 1, as those of several labels.
    """
    if not isinstance(targets, Tensor) or targets.ndim != 2 or len(targets) == 0:
        return
    sums = targets.double().sum(1)
    if (targets < 0).any() or ((sums - 1).abs() > 1e-2).any():
        raise UserError(
            f"targets of shape {tuple(targets.shape)} are no distributions over the classes (a row adds up to "
            f"{float(sums[(sums - 1).abs().argmax()]):g}); {_NOT_THERE_YET}: class numbers (B,), or rows that add up "
            "to 1, are wanted"
        )


def _is_no_class(which: str, shape: Sequence[int], label: Any) -> UserError:
    values = np.asarray(label.cpu() if isinstance(label, Tensor) else label) if len(shape) else None
    is_one_of_many = values is not None and values.ndim == 1 and values.size > 0 and abs(float(values.sum()) - 1) < 1e-3
    way_out = "for one-hot labels: their argmax" if is_one_of_many else f"{_NOT_THERE_YET}; for one-hot labels: argmax"
    return UserError(f"{which} shape {tuple(shape)}; {_ONE_IS_WANTED} ({way_out})")


def _is_fraction(label: float) -> UserError:
    return UserError(f"a label is {label:g}; {_ONE_IS_WANTED}, 0..C-1 (nothing is rounded)")


def _is_no_number(label: str) -> UserError:
    return UserError(f"a label is {label!r}; class numbers 0..C-1 are wanted, and the names as classes=[...]")
