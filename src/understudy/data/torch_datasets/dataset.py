"""Data sets made in Python: any torch Dataset of (image, label), or a Hugging Face one, as sources and splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.data import Subset

from understudy.data.cache import Cached, cached, first_readable
from understudy.data.config import DataConfig
from understudy.data.loaders.workers import note_on_workers
from understudy.data.sources.base import Source
from understudy.data.sources.columns import Columns
from understudy.data.sources.found import Found, SplitName, checked_labels, split_name
from understudy.data.sources.grey_range import note_on_greys, settle_greys
from understudy.data.splits import DataSplits, splits_of
from understudy.data.torch_datasets.channels import channels_for
from understudy.data.torch_datasets.class_names import carrier, names_of, numbered_by_name
from understudy.data.torch_datasets.labels import labels_of
from understudy.data.torch_datasets.masks import gives_masks, masked_splits
from understudy.data.torch_datasets.random_transforms import differs, drawing_transforms, is_fixed, without_drawing
from understudy.data.torch_datasets.samples import DatasetSource, Taker
from understudy.utils.errors import UserError

__all__ = ["dataset_source", "dataset_splits"]


def dataset_source(
    dataset: Any, classes: Sequence[str] | None = None, *, cache: Literal["auto"] | bool = "auto"
) -> Source:
    """A torch Dataset (or Hugging Face one) as a Source.

    Labels are those that the samples have; see `labels_of` for when a list beside them will do. Images are cached only
    where the data set shows that they never change: one of torchvision's own without a transform, or made of tensors.

    Args:
        dataset: with a length; N samples.
        classes: names; checks that labels are below their number.
        cache: as in DataConfig; True vouches for samples that do not change.

    Raises:
        UserError: no length, a label outside 0..C-1 or that cannot be read, or, under cache: auto, small images that
            take more than half of the free memory.
    """
    _check_is_a_data_set(dataset)
    taker = Taker(Columns(), dataset)
    labels = labels_of(dataset, taker)
    num_classes = len(classes) if classes is not None else int(labels.max()) + 1 if len(labels) else 0
    labels = checked_labels(labels, num_classes, what=type(dataset).__name__)
    return _cached(DatasetSource(dataset, labels, taker), cache, takes_rectangles=True).source


def dataset_splits(
    train: Any,
    val: Any | None = None,
    test: Any | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "own data",
    config: DataConfig | None = None,
    networks: Sequence[nn.Module] = (),
) -> DataSplits:
    """DataSplits of data sets made in Python; without `val`, some of `train` is held out by seed.

    Labels of val and test are matched with those of train by the class names that the data sets carry. Images held out
    of `train` do not go through what its transform draws, where that can be taken away, and a note says where not.

    Args:
        train: as for `dataset_source`, or a mapping of data sets by split (train, validation, test), as a DatasetDict.
        val: as for `dataset_source`; None divides train as `config` says.
        test: read once, at the end; may be missing.
        classes: names; None takes those that train carries, else the numbers.
        name: for messages.
        config: its rows, columns, fraction, seed, range of greys and cache apply; `root` is not read.
        networks: that are going to take the images, which settles what becomes of grey ones (see `channels_for`).

    Raises:
        UserError: as `dataset_source` and `open_data`, or classes in val or test that train lacks.
    """
    config = config or DataConfig(root=name)
    if config.cache == "resized":
        raise UserError("data.cache: resized keeps image files; a data set of Python gives what it gives, leave it out")
    given = _given(train, val, test)
    opened: dict[SplitName, _Opened] = {}
    for split, dataset in given.items():
        with _said_of(split):
            _check_is_a_data_set(dataset)
    if gives_masks(given["train"]):
        return masked_splits(given, classes, name=name, config=config)
    for split, dataset in given.items():
        with _said_of(split):
            opened[split] = _Opened.of(dataset, config)
    notes = _without_unlabelled(opened, name)
    classes = _matched_by_name(opened, classes)
    sources = {split: _source(part, split, classes) for split, part in opened.items()}
    with _said_of("train"):
        greys = settle_greys(sources["train"], sources.values(), config.grey_range, num_looked_at=3)
        channels, words = channels_for(sources["train"], networks)
    for source in sources.values():
        source.channels = channels if networks else None
    held_out, on_drawing = _not_augmented(opened, sources, config)
    once: dict[SplitName, Cached] = {}
    for split, source in sources.items():
        with _said_of(split):
            once[split] = _cached(source, config.cache, takes_rectangles=config.takes_rectangles)
    found = Found(
        name,
        tuple(classes),
        {split: part.source for split, part in once.items()},
        bad=tuple(f"{split}: {text}" for split, part in once.items() for text in part.bad),
        notes=(*notes, *words, *note_on_greys(greys), *on_drawing, *note_on_workers(config, sources.values())),
        held_out=held_out,
        are_greys_settled=True,
    )
    # The sources above are cached as far as they may be; a transform that draws must not be frozen now.
    splits = splits_of(found, config.model_copy(update={"cache": False}), greys=greys)
    first = first_readable(splits.train)
    return splits if first is None else replace(splits, channels=first.shape[0])


@dataclass(slots=True)
class _Opened:
    """One data set of Python, with its labels as its samples have them."""

    dataset: Any
    taker: Taker
    labels: Tensor  # (N,)

    @classmethod
    def of(cls, dataset: Any, config: DataConfig) -> _Opened:
        taker = Taker(Columns(config.image_column, config.label_column), dataset)
        return cls(dataset, taker, labels_of(dataset, taker))


def _given(train: Any, val: Any, test: Any) -> dict[SplitName, Any]:
    """The data sets by split, those of a mapping too."""
    given: dict[SplitName, Any] = {"train": train}
    if isinstance(train, Mapping):
        given = {split: dataset for key, dataset in train.items() if (split := split_name(str(key)))}
        if "train" not in given:
            raise UserError(f"train: a {type(train).__name__} without a train split; it has: {', '.join(train) or '-'}")
    own: dict[SplitName, Any] = {"val": val, "test": test}
    given |= {split: dataset for split, dataset in own.items() if dataset is not None}
    return {split: given[split] for split in _SPLITS if split in given}


_SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


def _without_unlabelled(opened: dict[SplitName, _Opened], name: str) -> list[str]:
    """Take away a test split whose labels all are -1, as the hub marks those of contests."""
    test = opened.get("test")
    if test is None or not bool((test.labels == -1).all()):
        return []
    del opened["test"]
    return [f"the test split of {name} has no labels and is left out"]


def _matched_by_name(opened: Mapping[SplitName, _Opened], classes: Sequence[str] | None) -> Sequence[str]:
    """Number all labels by the names that train carries, and say which names classes have."""
    train = opened["train"]
    own = names_of(carrier(train.dataset, train.labels, train.taker), train.taker)
    reference = own if own is not None else classes
    if reference is not None:
        for split, part in opened.items():
            theirs = names_of(carrier(part.dataset, part.labels, part.taker), part.taker)
            is_about_others = own is None and not set(theirs or ()) & set(reference)
            if not is_about_others:
                part.labels = numbered_by_name(part.dataset, part.labels, reference, part.taker, what=split)
    if classes is not None:
        return classes
    return own or [str(number) for number in range(max(int(train.labels.max()), 0) + 1)]


def _source(part: _Opened, split: SplitName, classes: Sequence[str]) -> DatasetSource:
    with _said_of(split):
        labels = checked_labels(part.labels, len(classes), what=type(part.dataset).__name__)
    return DatasetSource(part.dataset, labels, part.taker)


def _cached(source: DatasetSource, cache: Literal["auto", "resized"] | bool, *, takes_rectangles: bool) -> Cached:
    mode = cache if cache is True or is_fixed(source.dataset) else False
    return cached(
        source, mode, takes_rectangles=takes_rectangles, what=f"the images of {type(source.dataset).__name__}"
    )


def _not_augmented(
    opened: Mapping[SplitName, _Opened], sources: dict[SplitName, DatasetSource], config: DataConfig
) -> tuple[Source | None, list[str]]:
    """What images held out of train are read from, and notes on evaluation that goes through a transform that draws.

    A val or test data set that is a part of what train is a part of (`random_split`) counts as held out, too.
    """
    notes = []
    held_out = None
    is_divided = ("val" not in sources and config.val == "auto") or config.val_rows is not None
    for split, source in list(sources.items()):
        is_of_train = split == "train" or _base(source.dataset) is _base(opened["train"].dataset)
        if (split == "train" and not is_divided) or not _draws(source):
            continue
        what = "val, held out of train," if split == "train" else split
        plain = _plain(source) if is_of_train else None
        if plain is None:
            notes.append(
                f"warning  {what} goes through a transform that changes its images from call to call"
                f"{_named(source.dataset)}, so it is scored on augmented images; give "
                f"{'val' if split == 'train' else split}= a data set without that"
            )
            continue
        notes.append(f"{what} is shown without what the transform of train draws{_named(source.dataset)}")
        if split == "train":
            held_out = plain
        else:
            sources[split] = plain
    return held_out, notes


def _draws(source: DatasetSource) -> bool:
    return not is_fixed(source.dataset) and (bool(drawing_transforms(source.dataset)) or differs(source))


def _plain(source: DatasetSource) -> DatasetSource | None:
    """The same images without what draws; None where that cannot be had, or gives images of another size."""
    dataset = without_drawing(source.dataset)
    if dataset is None:
        return None
    plain = DatasetSource(dataset, source.labels, source.taker, source.channels)
    plain.greys = source.greys
    before, after = first_readable(source), first_readable(plain)
    is_alike = before is not None and after is not None and (before.shape, before.dtype) == (after.shape, after.dtype)
    return plain if is_alike and not differs(plain) else None


def _base(dataset: Any) -> Any:
    return _base(dataset.dataset) if type(dataset) is Subset else dataset


def _named(dataset: Any) -> str:
    names = drawing_transforms(dataset)
    return f" ({', '.join(names)})" if names else ""


@contextmanager
def _said_of(split: SplitName) -> Iterator[None]:
    """Problems inside the block name the data set that they are about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{split}: {error}") from None


def _check_is_a_data_set(dataset: Any) -> None:
    if isinstance(dataset, str | os.PathLike):
        raise UserError(
            f"got {str(dataset)!r}, which is no data set yet; open it, such as torchvision.datasets.ImageFolder(...), "
            "or use the command line, which reads folders and files"
        )
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise UserError(f"{type(dataset).__name__} is no data set with a length and samples by number")
    if len(dataset) == 0:
        raise UserError(f"{type(dataset).__name__} is empty")
