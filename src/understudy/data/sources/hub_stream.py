"""Images streamed by the Hugging Face library: read in passing, never stored, without numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import Any

from understudy.data.config import DataConfig, parsed_rows
from understudy.data.sources.columns import Columns, columns_of
from understudy.data.sources.found import SplitName
from understudy.data.sources.hub import loaded_from_hub, splits_by_name
from understudy.data.sources.streamed import StreamedSource
from understudy.utils.errors import UserError

__all__ = ["HubStream", "StreamParts", "stream_parts"]

SHUFFLE_BUFFER = 4096  # images in memory, from which the next one is drawn: about 450 MB of ImageNet's files


class HubStream(StreamedSource):
    """A split of a data set on the Hugging Face Hub.

    Args:
        dataset: a `datasets.IterableDataset` whose images are not decoded.
        columns: names of the two columns.
        classes: names of the labels.
        num_images: N.
        split: for messages.
    """

    def __init__(self, dataset: Any, columns: Columns, classes: tuple[str, ...], num_images: int, split: str) -> None:
        super().__init__(num_images, split)
        self._dataset = dataset
        self._columns = columns
        self._number_of = {name: number for number, name in enumerate(classes)}

    def rows(self, *, seed: int | None = None, epoch: int = 1) -> Iterator[tuple[bytes, int]]:
        """(file's bytes, class number) of all images; with a seed in an order of that seed and epoch."""
        dataset = self._dataset
        if seed is not None:
            dataset = _shuffled(dataset, seed)
            dataset.set_epoch(epoch)
        for number, row in enumerate(islice(dataset, len(self))):
            yield _bytes_of(row[self._columns.image]), self._class_of(row[self._columns.label], number)

    def _class_of(self, label: Any, number: int) -> int:
        found = self._number_of.get(label, -1) if isinstance(label, str) else label if isinstance(label, int) else -1
        if not 0 <= found < len(self._number_of):
            known = len(self._number_of)
            raise UserError(f"{self.name(number)}: label {label!r} is none of the {known} classes, 0..{known - 1}")
        return found


@dataclass(frozen=True, slots=True)
class StreamParts:
    """The parts of a streamed data set, as `divided` makes those of a stored one."""

    name: str
    classes: tuple[str, ...]
    parts: Mapping[SplitName, HubStream]
    val_origin: str


def stream_parts(config: DataConfig) -> StreamParts:
    """Open the streams of train, val and, where there is one, test; train_rows and val_rows cut them out of train.

    Raises:
        UserError: no such data set, classes without names, no val split, or nothing to read.
    """
    loaded = splits_by_name(loaded_from_hub(config.root, streaming=True), config.root)
    opened = {split: _undecoded(dataset, config) for split, dataset in loaded.items()}
    classes = _classes(*opened["train"], config.root)

    def stream(split: SplitName, rows: str | None, name: str) -> HubStream:
        dataset, columns = opened[split]
        start, stop = parsed_rows(rows or ":")
        count = _num_images(loaded[split], columns) if stop is None else stop
        if count <= start:
            raise UserError(f"the {name} split of {config.root} is empty")
        cut = dataset.skip(start).take(count - start) if rows else dataset
        return HubStream(cut, columns, classes, count - start, name)

    parts: dict[SplitName, HubStream] = {"train": stream("train", config.train_rows, "train")}
    if "test" in opened:
        parts["test"] = stream("test", None, "test")
    if config.val == "test" and "test" in parts:
        parts["val"], origin = parts["test"], "test split"
    elif config.val_rows is not None:
        _check_apart(config)
        parts["val"], origin = stream("train", config.val_rows, "val"), f"rows {config.val_rows} of train"
    elif config.val == "auto" and "val" in opened:
        parts["val"], origin = stream("val", None, "val"), "val split"
    else:
        wanted = "test" if config.val == "test" else "val"
        raise UserError(
            f"data.streaming: {config.root} has no {wanted} split, and none can be held out by class of images that "
            "are not stored; set data.train_rows and data.val_rows, or leave out data.streaming"
        )
    return StreamParts(config.root.rstrip("/").split("/")[-1].removeprefix("hf:"), classes, parts, origin)


def _undecoded(dataset: Any, config: DataConfig) -> tuple[Any, Columns]:
    """The data set with images as bytes, and which columns they and their labels are in."""
    import datasets

    if dataset.features is None:
        raise UserError(f"data.streaming: {config.root} does not say which columns it has; leave out data.streaming")
    wanted = Columns(config.image_column, config.label_column)
    columns = columns_of(dataset.features.arrow_schema, wanted, config.root)
    there = dataset.select_columns([columns.image, columns.label])
    if isinstance(dataset.features[columns.image], datasets.Image):
        there = there.cast_column(columns.image, datasets.Image(decode=False))
    return there, columns


def _classes(dataset: Any, columns: Columns, root: str) -> tuple[str, ...]:
    feature = dataset.features[columns.label]
    names = getattr(feature, "names", None)
    if not names and (isinstance(feature, list) or hasattr(feature, "feature")):
        raise UserError(
            f"column {columns.label!r} of {root} holds several labels for each image; multi-label classification is "
            "not there yet"
        )
    if not names:
        raise UserError(
            f"data.streaming: {root} does not name its classes, and of a stream nobody knows how many there are; "
            "leave out data.streaming"
        )
    return tuple(names)


def _num_images(dataset: Any, columns: Columns) -> int:
    """N as the data set's card has it; without one, the labels are read once."""
    known = (dataset.info.splits or {}).get(str(dataset.split)) if dataset.info is not None else None
    if known is not None and known.num_examples:
        return int(known.num_examples)
    return sum(1 for _ in dataset.select_columns([columns.label]))


def _shuffled(dataset: Any, seed: int) -> Any:
    """Shards in another order, and a buffer from which the next image is drawn."""
    # datasets 5 fills the buffer from several shards in threads, unless told otherwise, and sleeps 5 s after a pass.
    is_new = "max_buffer_input_shards" in signature(dataset.shuffle).parameters
    one_by_one = {"max_buffer_input_shards": 1} if is_new else {}
    return dataset.shuffle(seed=seed % 2**32, buffer_size=SHUFFLE_BUFFER, **one_by_one)


def _check_apart(config: DataConfig) -> None:
    start, stop = parsed_rows(config.val_rows or ":")
    first, last = parsed_rows(config.train_rows or ":")
    if first < (stop or first + 1) and start < (last or start + 1):
        raise UserError(
            f"data.streaming: data.train_rows {config.train_rows or ':'} and data.val_rows {config.val_rows} share "
            "rows; name both, as in data.train_rows=5000: and data.val_rows=:5000"
        )


def _bytes_of(cell: Any) -> bytes:
    data = cell.get("bytes") or cell.get("path") if isinstance(cell, Mapping) else cell
    if isinstance(data, str):
        with open(data, "rb") as file:
            return file.read()
    return bytes(data or b"")
