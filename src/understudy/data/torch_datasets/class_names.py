"""Class names that data sets made in Python carry, by which their labels are matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from understudy.data.torch_datasets.labels import listed_labels
from understudy.data.torch_datasets.samples import Taker, is_hugging_face
from understudy.utils.errors import UserError
from understudy.utils.text import listed

__all__ = ["carrier", "names_of", "numbered_by_name"]

MOST_SHOWN = 10
MOST_WRAPPERS = 4  # around one another, that are looked through


def names_of(dataset: Any, taker: Taker) -> tuple[str, ...] | None:
    """Names of the labels 0, 1, ..., as the data set carries them; None where it carries none.

    `classes`, `class_to_idx`, `categories`, or the ClassLabel of a Hugging Face data set, through Subset; of a
    ConcatDataset the names of the part that has most.
    """
    if isinstance(dataset, ConcatDataset):
        known = [names_of(part, taker) for part in dataset.datasets]
        there: list[tuple[str, ...]] = [names for names in known if names is not None]
        return max(there, key=len) if len(there) == len(known) else None
    if is_hugging_face(dataset):
        feature = dataset.features.get(taker.label_column) if taker.label_column else None
        return _as_names(getattr(feature, "names", None))
    for name in ("classes", "categories"):
        if (names := _as_names(getattr(dataset, name, None))) is not None:
            return names
    numbers = getattr(dataset, "class_to_idx", None)
    if isinstance(numbers, Mapping) and sorted(numbers.values()) == list(range(len(numbers))):
        return tuple(str(name) for name, _ in sorted(numbers.items(), key=lambda pair: int(pair[1])))
    return names_of(dataset.dataset, taker) if type(dataset) is Subset else None


def carrier(dataset: Any, labels: Tensor, taker: Taker) -> Any:
    """The data set within a person's own wrapper, where that carries the names and has the same labels (N,)."""
    inner = None if names_of(dataset, taker) is not None else _within(dataset, labels, taker, MOST_WRAPPERS)
    return dataset if inner is None else inner


def _within(dataset: Any, labels: Tensor, taker: Taker, most: int) -> Any | None:
    """What one of its attributes, or an attribute's, carries names with these labels; None where nothing does."""
    for kept in list(getattr(dataset, "__dict__", {}).values()) if most else ():
        if isinstance(kept, list | tuple | Tensor) or _length(kept) != len(labels):
            continue
        if names_of(kept, taker) is None:
            if (inner := _within(kept, labels, taker, most - 1)) is not None:
                return inner
        elif (listed := listed_labels(kept, taker)) is not None and torch.equal(listed, labels):
            return kept
    return None


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except TypeError:
        return -1


def numbered_by_name(dataset: Any, labels: Tensor, names: Sequence[str], taker: Taker, *, what: str) -> Tensor:
    """(N,) labels in the order of `names`, by the names that the data set itself gives them.

    Those of a data set that carries no names, or the same ones, stay as they are.

    Args:
        dataset: of N samples.
        labels: (N,) as the samples have them.
        names: of train.
        taker: takes samples apart.
        what: "train", "val" or "test", for messages.

    Raises:
        UserError: samples of a class whose name train lacks; both lists are shown.
    """
    if type(dataset) is Subset and not hasattr(dataset, "classes"):
        inner: Any = dataset.dataset
        whole = torch.full((len(inner),), -1, dtype=torch.int64)
        places = torch.as_tensor(dataset.indices)
        whole[places] = labels
        return numbered_by_name(inner, whole, names, taker, what=what)[places]
    if type(dataset) is ConcatDataset:
        parts: list[Any] = dataset.datasets
        pairs = zip(parts, torch.split(labels, list(map(len, parts))), strict=True)
        return torch.cat([numbered_by_name(part, its, names, taker, what=what) for part, its in pairs])
    dataset = carrier(dataset, labels, taker)
    own = names_of(dataset, taker)
    if own is None or list(own) == list(names):
        return labels
    is_known = (labels >= 0) & (labels < len(own))
    used = torch.unique(labels[is_known]).tolist()
    number_of = {name: number for number, name in enumerate(names)}
    unknown = [own[label] for label in used if own[label] not in number_of]
    if unknown or len(number_of) < len(names) or len(set(own)) < len(own):
        raise UserError(
            f"{what} has other classes than train: it has {_listed(own)}; train has {_listed(names)}; give both the "
            "same classes, or name those of train alone"
        )
    new = torch.tensor([number_of.get(name, -1) for name in own], dtype=torch.int64)
    renumbered = labels.clone()
    renumbered[is_known] = new[labels[is_known]]
    return renumbered


def _as_names(names: Any) -> tuple[str, ...] | None:
    if not isinstance(names, list | tuple) or not names:
        return None
    # torchvision's ImageNet has the synonyms of each class as a tuple
    return tuple(", ".join(map(str, name)) if isinstance(name, list | tuple) else str(name) for name in names)


def _listed(names: Sequence[str]) -> str:
    return f"{listed(names, MOST_SHOWN)} ({len(names)})"
