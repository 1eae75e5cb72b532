"""open_data: from settings to train, val and test, with the words that say where each comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from understudy.config import UserError, nearest
from understudy.data.builtin import CIFAR_FOLDERS, read_cifar, read_digits
from understudy.data.config import DataConfig
from understudy.data.dividing import divided
from understudy.data.folders import read_folder
from understudy.data.found import BadImages, Found
from understudy.data.parquet import parquet_files, read_parquet
from understudy.data.sources import Source, TensorSource, as_unit, cached, small_size

__all__ = ["DataSplits", "open_data", "splits_of"]


@dataclass(frozen=True, slots=True)
class DataSplits:
    """What a run learns from and is measured on.

    Attributes:
        val_origin: in words: "val folder", "val split", "held out by seed 0", "rows 10000:12500 of train" or
            "test split".
        native_size: pixels a side where all training images are square, equal and in memory, else None.
        mean: per channel (R, G, B) of the training images in [0,1], where they are in memory.
        std: likewise.
        notes: what a person should be told: files left out, memory taken.
    """

    name: str
    classes: tuple[str, ...]
    train: Source
    val: Source
    test: Source | None
    val_origin: str
    native_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()


def open_data(config: DataConfig) -> DataSplits:
    """Find the images at `config.root`, divide them, and keep small ones in memory.

    Raises:
        UserError: nothing there, or not in a form that can be used; the text says what was found and what to do.
    """
    return splits_of(_found(config), config)


def splits_of(found: Found, config: DataConfig) -> DataSplits:
    """Divide what a reader found, as the settings say.

    Raises:
        UserError: rows that are not there, an empty split, no test split where val: test wants it, or, under
            on_bad_image: stop, an image that cannot be read.
    """
    if found.no_images and config.on_bad_image == "stop":
        raise BadImages(found.no_images).error()
    notes = [*found.notes, *([BadImages(found.no_images).note()] if found.no_images else [])]
    parts, origin = divided(found, config)
    decoded = {source: cached(source, config.cache) for source in dict.fromkeys(parts.values())}
    if unreadable := [text for _, bad in decoded.values() for text in bad]:
        bad_images = BadImages(unreadable, ("image cannot be read", "images cannot be read"))
        if config.on_bad_image == "stop":
            raise bad_images.error()
        notes.append(bad_images.note())
    for name, source in parts.items():
        if len(decoded[source][0]) == 0:
            raise UserError(f"none of the {len(source)} images of {found.name}'s {name} split can be read")
    train = decoded[parts["train"]][0]
    mean, std = _statistics(train)
    return DataSplits(
        name=found.name,
        classes=found.classes,
        train=train,
        val=decoded[parts["val"]][0],
        test=decoded[parts["test"]][0] if "test" in parts else None,
        val_origin=origin,
        native_size=small_size(train),
        mean=mean,
        std=std,
        notes=(*notes, *_notes_on_classes(train, found.classes), *_notes_on_memory(s for s, _ in decoded.values())),
    )


def _found(config: DataConfig) -> Found:
    kind = _format(config)
    if kind == "digits":
        return read_digits()
    root = Path(config.root).expanduser()
    if kind == "parquet":
        return read_parquet(root, image_column=config.image_column, label_column=config.label_column)
    return read_folder(root) if kind == "folder" else read_cifar(root, kind)


def _format(config: DataConfig) -> Literal["folder", "parquet", "cifar10", "cifar100", "digits"]:
    if config.format == "digits" or (config.format == "auto" and config.root == "digits"):
        return "digits"
    root = Path(config.root).expanduser()
    if not root.exists():
        beside = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
        close = nearest(root.name, [*beside, *(["digits"] if root.parent == Path() else [])])
        raise UserError(f"data.root: there is nothing at {config.root}" + (f"; did you mean {close}?" if close else ""))
    if config.format != "auto":
        return config.format
    if parquet_files(root):
        return "parquet"
    for folder, kind in CIFAR_FOLDERS.items():
        if root.name == folder or (root / folder).is_dir():
            return kind
    if not root.is_dir():
        raise UserError(f"data.root: {config.root} is neither a folder nor a .parquet file")
    return "folder"


def _notes_on_classes(train: Source, classes: tuple[str, ...]) -> list[str]:
    counts = torch.bincount(train.labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
    return [f"train has no image of {len(absent)} of {len(classes)} classes: {shown}"] if absent else []


def _notes_on_memory(sources: Iterable[Source]) -> list[str]:
    num_bytes = sum(source.images.nbytes for source in sources if isinstance(source, TensorSource))
    return [f"decoded images take {num_bytes / 2**20:.1f} MiB of memory"] if num_bytes else []


Channels = tuple[float, float, float]


def _statistics(source: Source, chunk: int = 1000) -> tuple[Channels, Channels] | tuple[None, None]:
    """Mean and standard deviation per channel over all pixels, in [0,1]; None for images that are not in memory."""
    if not isinstance(source, TensorSource):
        return None, None
    total = torch.zeros(2, 3, dtype=torch.float64)
    for images in torch.split(source.images, chunk):
        pixels = as_unit(images)  # (n,3,H,W)
        total += torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))]).double()
    mean, square = total / (source.images.numel() / 3)
    std = (square - mean.square()).clamp_min(0).sqrt()
    return (mean[0].item(), mean[1].item(), mean[2].item()), (std[0].item(), std[1].item(), std[2].item())
