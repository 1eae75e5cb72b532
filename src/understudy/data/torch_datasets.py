"""Data sets made in Python: any torch Dataset of (image, label), or a Hugging Face one of {"image", "label"}."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.datasets import VisionDataset

from understudy.config import UserError
from understudy.data.caching import Cached, cached
from understudy.data.config import DataConfig
from understudy.data.found import Found, SplitName, checked_labels
from understudy.data.images import BadImageError, from_pil
from understudy.data.sources import Source
from understudy.data.splits import DataSplits, splits_of

__all__ = ["dataset_source", "dataset_splits"]


class DatasetSource:
    """A map-style data set, asked for a sample whenever its image is wanted.

    Args:
        dataset: of (image, label) or {"image": ..., "label": ...}; images are PIL, (H,W), (1,H,W) or (3,H,W)
            uint8, or float tensors, which stay as they are.
        labels: (N,) int64.
    """

    def __init__(self, dataset: Any, labels: Tensor) -> None:
        self.dataset = dataset
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> Tensor:
        """The sample's image; its own transform runs now."""
        try:
            image = _parts(self.dataset[i])[0]
            return from_pil(image) if isinstance(image, Image.Image) else _rgb(image)
        except OSError as error:  # what PIL raises at a damaged file
            raise BadImageError(f"{self.name(i)}: {error}") from None

    def name(self, i: int) -> str:
        """The path, where the data set lists `samples` as ImageFolder does, else the number."""
        return _name(self.dataset, i)


def dataset_source(
    dataset: Any, classes: Sequence[str] | None = None, *, cache: Literal["auto"] | bool = "auto"
) -> Source:
    """A torch Dataset (or Hugging Face one) as a Source.

    Labels come from `targets` (torchvision), `tensors[1]` (TensorDataset) or the label column. Where there is none of
    these, a transform may change them, or one of three samples has another, every sample is read once. Images are
    cached only where the data set shows that they never change: one without a transform, or made of tensors.

    Args:
        dataset: with a length; N samples.
        classes: names; checks that labels are below their number.
        cache: as in DataConfig; True vouches for samples that do not change.

    Raises:
        UserError: no length, a label outside 0..C-1 or that cannot be read, or, under cache: auto, small images that
            take more than half of the free memory.
    """
    _check_is_a_data_set(dataset)
    return _cached(dataset, _labels(dataset), classes, cache).source


def _cached(dataset: Any, labels: Tensor, classes: Sequence[str] | None, cache: Literal["auto"] | bool) -> Cached:
    num_classes = len(classes) if classes is not None else int(labels.max()) + 1 if len(labels) else 0
    source: Source = DatasetSource(dataset, checked_labels(labels, num_classes, what=type(dataset).__name__))
    mode = cache if cache is True or _is_fixed(dataset) else False
    return cached(source, mode, what=f"the images of {type(dataset).__name__}")


def dataset_splits(
    train: Any,
    val: Any | None = None,
    test: Any | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "own data",
    config: DataConfig | None = None,
) -> DataSplits:
    """DataSplits of data sets made in Python; without `val`, some of `train` is held out by seed.

    Args:
        train: as for `dataset_source`; so are val and test.
        val: None divides train as `config` says.
        test: read once, at the end; may be missing.
        classes: names; None takes `train.classes`, else the numbers.
        name: for messages.
        config: its rows, fraction, seed and cache apply; `root` is not read.

    Raises:
        UserError: as `dataset_source` and `open_data`.
    """
    config = config or DataConfig(root=name)
    given: dict[SplitName, Any] = {"train": train, "val": val, "test": test}
    given = {split: dataset for split, dataset in given.items() if dataset is not None or split == "train"}
    for split, dataset in given.items():
        with _said_of(split):
            _check_is_a_data_set(dataset)
    once, labels = {}, {}
    for split, dataset in given.items():
        with _said_of(split):
            labels[split] = _labels(dataset)
    if classes is None:
        classes = getattr(train, "classes", None) or _numbers(labels["train"])
    for split, dataset in given.items():
        with _said_of(split):
            once[split] = _cached(dataset, labels[split], classes, config.cache)
    splits = {split: found.source for split, found in once.items()}
    bad = tuple(f"{split}: {text}" for split, found in once.items() for text in found.bad)
    # The sources above are cached as far as they may be; a transform that draws must not be frozen now.
    return splits_of(Found(name, tuple(classes), splits, bad=bad), config.model_copy(update={"cache": False}))


@contextmanager
def _said_of(split: SplitName) -> Iterator[None]:
    """Problems inside the block name the data set that they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{split}: {error}") from None


def _numbers(labels: Tensor) -> list[str]:
    """'0', '1' up to the largest label."""
    return [str(number) for number in range(max(int(labels.max()), 0) + 1)]


def _check_is_a_data_set(dataset: Any) -> None:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise UserError(f"{type(dataset).__name__} is no data set with a length and samples by number")
    if len(dataset) == 0:
        raise UserError(f"{type(dataset).__name__} is empty")


def _parts(sample: Any) -> tuple[Any, Any]:
    if isinstance(sample, Mapping):
        return sample["image"], sample["label"]
    return sample[0], sample[1]


def _name(dataset: Any, i: int) -> str:
    samples = getattr(dataset, "samples", None)
    return str(samples[i][0]) if samples else f"sample {i}"


def _labels(dataset: Any) -> Tensor:
    """(N,) int64, those that the samples have; read from every sample only where nothing else is to be trusted."""
    listed = _listed_labels(dataset)
    if listed is not None and _holds(listed, dataset):
        return listed
    return torch.tensor([_label_of(dataset, i) for i in range(len(dataset))], dtype=torch.int64)


def _listed_labels(dataset: Any) -> Tensor | None:
    """(N,) int64, from a list beside the samples; None where there is none, or samples may have others.

    A Subset or TensorDataset of a class of its own may give other labels than the one that it is made of.
    """
    if type(dataset) is Subset:
        listed = _listed_labels(dataset.dataset)
        return None if listed is None else listed[torch.as_tensor(dataset.indices)]
    if type(dataset) is TensorDataset:
        return _as_class_numbers(dataset.tensors[1])
    known = None if _may_relabel(dataset) else getattr(dataset, "targets", None)
    if known is None and "label" in (getattr(dataset, "column_names", None) or ()):
        known = dataset["label"][:]
    if known is None or len(known) != len(dataset):
        return None
    if len(known) and isinstance(known[0], str):
        raise _is_no_number(known[0])
    return _as_class_numbers(torch.as_tensor(known))


def _may_relabel(dataset: Any) -> bool:
    """Whether a transform in torchvision's manner may give the samples other labels than `targets`."""
    if getattr(dataset, "target_transform", None) is not None:
        return True
    joint = getattr(dataset, "transforms", None) if isinstance(dataset, VisionDataset) else None
    return getattr(joint, "target_transform", joint) is not None


def _holds(listed: Tensor, dataset: Any) -> bool:
    """Whether the first, middle and last sample have the listed labels; one that cannot be read tells nothing."""
    for i in sorted({0, len(dataset) // 2, len(dataset) - 1}):
        try:
            sample = dataset[i]
        except OSError:
            continue
        if _one_label(_parts(sample)[1]) != int(listed[i]):
            return False
    return True


def _label_of(dataset: Any, i: int) -> int:
    try:
        sample = dataset[i]
    except OSError as error:  # what PIL raises at a damaged file
        raise UserError(
            f"{_name(dataset, i)}: {error}, so its label is not known; take it away, or list the labels as `targets`"
        ) from None
    return _one_label(_parts(sample)[1])


def _as_class_numbers(labels: Tensor) -> Tensor:
    if labels.ndim != 1:
        raise _is_no_class("the labels have", labels.shape)
    return labels.to(torch.int64)


def _one_label(label: Any) -> int:
    if isinstance(label, str):
        raise _is_no_number(label)
    shape = tuple(getattr(label, "shape", ()))
    if math.prod(shape) != 1:
        raise _is_no_class("a label has", shape)
    try:
        return int(label)
    except (TypeError, ValueError):
        kind = type(label).__name__
        raise UserError(f"a label is of type {kind}; one class number for each image is wanted") from None


def _is_no_class(which: str, shape: Sequence[int]) -> UserError:
    return UserError(
        f"{which} shape {tuple(shape)}; one class number for each image is wanted (for one-hot labels: their argmax)"
    )


def _is_no_number(label: str) -> UserError:
    return UserError(f"a label is {label!r}; class numbers 0..C-1 are wanted, and the names as classes=[...]")


def _is_fixed(dataset: Dataset[Any]) -> bool:
    """Whether sample i is surely the same on every call."""
    if type(dataset) is Subset:
        return _is_fixed(dataset.dataset)
    if type(dataset) is TensorDataset:
        return True
    if hasattr(dataset, "dataset"):  # of a class of its own around another, which may draw whatever this one says
        return False
    has_no_transform = hasattr(dataset, "transform") and dataset.transform is None
    return has_no_transform and getattr(dataset, "transforms", None) is None


def _rgb(image: Any) -> Tensor:
    """(3,H,W) of a tensor or array of one or three channels."""
    tensor = torch.as_tensor(image)
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise UserError(f"an image has shape {tuple(tensor.shape)}; (3,H,W), (1,H,W), (H,W) or a PIL image is wanted")
    return tensor.expand(3, -1, -1)
