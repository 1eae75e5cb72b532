"""read_unlabelled: images without labels beside the training images, for the distillation loss alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from understudy.core.image_size import ImageSize, size_of, size_text
from understudy.data.cache import first_readable
from understudy.data.config import DataConfig
from understudy.data.sources.base import EncodedSource, FileSource, Source, is_small, joined
from understudy.data.sources.decoding import printable
from understudy.data.sources.detect import existing
from understudy.data.sources.fitted import FittedSource
from understudy.data.sources.folders import image_files
from understudy.data.sources.greys import Greys
from understudy.utils.errors import UserError

__all__ = ["Unlabelled", "read_unlabelled"]


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """Train with the unlabelled images after its own, and what a person should be told."""

    train: Source
    no_images: Sequence[str] = ()
    notes: Sequence[str] = ()


def read_unlabelled(train: Source, config: DataConfig, greys: Greys | None = None) -> Unlabelled:
    """`train` with the images at any depth of `config.unlabelled` after its own, under the label -1.

    Where train is small images of one size, which may be kept in memory, the unlabelled ones are brought to that size:
    scaled until they cover it, centre cut out. Their greys of more than 8 bits are scaled by the range of train,
    `greys`.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if config.unlabelled is None:
        return Unlabelled(train)
    folder = existing(config.unlabelled, "unlabelled")
    if not folder.is_dir():
        raise UserError(f"data.unlabelled: {config.unlabelled} is no folder")
    paths, no_images = image_files(folder)
    if not paths:
        raise UserError(f"data.unlabelled: {config.unlabelled} holds no image")
    source: EncodedSource = FileSource(folder, paths, torch.full((len(paths),), -1, dtype=torch.int64))
    source.greys, source.applies_exif = greys, config.exif_rotation
    notes = [f"{len(paths):,} unlabelled images of {printable(folder)} join train, for the distillation loss alone"]
    size = None if config.cache is False else _size_in_memory(train, takes_rectangles=config.takes_rectangles)
    if size is not None:
        source = FittedSource(source, size)
        notes = [f"{notes[0]}, resized and cropped to {size_text(size)} pixels"]
    return Unlabelled(joined([train, source]), [f"{folder.name}/{name}" for name in no_images], notes)


def _size_in_memory(train: Source, *, takes_rectangles: bool) -> ImageSize | None:
    """Size of images that will be cached, as far as the first tells."""
    first = first_readable(train)
    if first is None or first.is_floating_point() or not is_small(first, takes_rectangles=takes_rectangles):
        return None
    return size_of(first.shape)
