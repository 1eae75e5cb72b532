"""Sources whose images have a mask each: a class number for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from understudy.data.sources.base import EncodedSource, FileSource, Source, holders, stored_at
from understudy.data.sources.decoding import UNREADABLE, BadImageError, printable, size_from_header
from understudy.data.sources.mask_table import IGNORED, MaskTable, Values, mask_values

__all__ = [
    "IGNORED",
    "ArrayMaskedSource",
    "FromFiles",
    "Masked",
    "MaskedCells",
    "MaskedSource",
    "has_masks",
    "mask_of",
    "pixels_of_classes",
    "size_of_image",
]


@runtime_checkable
class Masked(Protocol):
    """A source that has a mask for each of its images."""

    def mask(self, i: int) -> Tensor:
        """(H,W) uint8 class numbers, 255 where a pixel has none. Raises BadImageError where it cannot be had."""

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image i, without decoding it."""


class FromFiles(EncodedSource):
    """Base of sources whose masks are files, or the bytes of files."""

    table: MaskTable

    def values(self, i: int) -> Values:
        """(H,W) what mask i holds, of a palette the numbers of its colours; or colours (H,W,3). See `mask_values`."""
        raise NotImplementedError

    def mask_name(self, i: int) -> str:
        """What messages call mask i."""
        raise NotImplementedError

    def mask(self, i: int) -> Tensor:
        """Read now."""
        return self.table.classes_of(self.values(i), self.mask_name(i))

    def numbers(self, i: int) -> Values:
        """(H,W) the numbers that mask i holds.

        Raises:
            BadImageError: it cannot be read, or holds colours.
        """
        values = self.values(i)
        return values if values.ndim == 2 else self.table.classes_of(values, self.mask_name(i)).numpy()

    def size(self, i: int) -> tuple[int, int]:
        """By the image's header."""
        try:
            with self.opened(i) as file, Image.open(file) as image:
                return size_from_header(image, applies_exif=self.applies_exif)
        except UNREADABLE as error:
            raise BadImageError(f"{self.name(i)}: {error}") from None


class MaskedSource(FromFiles, FileSource):
    """Image files below one folder, and mask files below another, pair by pair."""

    def __init__(
        self, root: Path, paths: Sequence[str], mask_root: Path, mask_paths: Sequence[str], table: MaskTable
    ) -> None:
        super().__init__(root, paths, torch.zeros(len(paths), dtype=torch.int64))  # no image has a class of its own
        self.mask_root = mask_root
        self.mask_paths = mask_paths  # relative to mask_root
        self.table = table

    def values(self, i: int) -> Values:
        """Of its file."""
        return mask_values(lambda: (self.mask_root / self.mask_paths[i]).read_bytes(), self.mask_name(i))

    def mask_name(self, i: int) -> str:
        """Its path."""
        return printable(self.mask_paths[i])

    def identity(self, i: int) -> bytes:
        """Names and sizes of both files."""
        path = self.mask_root / self.mask_paths[i]
        num_bytes = path.stat().st_size if path.is_file() else 0
        return super().identity(i) + f"{self.mask_name(i)}\0{num_bytes}\n".encode()


class MaskedCells(FromFiles):
    """Images of one column of a table, and masks of another.

    Args:
        images: (N) of the first.
        masks: (N) of the second.
        table: what their numbers mean.
    """

    def __init__(self, images: EncodedSource, masks: EncodedSource, table: MaskTable) -> None:
        self.labels = torch.zeros(len(images), dtype=torch.int64)
        self._images, self._masks = images, masks
        self.table = table

    def encoded(self, i: int) -> bytes:
        """Of the image."""
        return self._images.encoded(i)

    def num_bytes(self, i: int) -> int:
        """Of the image."""
        return self._images.num_bytes(i)

    def name(self, i: int) -> str:
        """Of the image."""
        return self._images.name(i)

    def values(self, i: int) -> Values:
        """Of its cell."""
        return mask_values(lambda: self._masks.encoded(i), self.mask_name(i))

    def mask_name(self, i: int) -> str:
        """Its row."""
        return f"the mask in {self._masks.name(i)}"

    def identity(self, i: int) -> bytes:
        """Names and sizes of both."""
        return super().identity(i) + f"{self._masks.num_bytes(i)}\n".encode()


class ArrayMaskedSource:
    """Equal-sized images and masks in memory.

    Args:
        images: (N,3,H,W) uint8.
        masks: (N,H,W) uint8 class numbers, 255 where a pixel has none.
    """

    def __init__(self, images: Tensor, masks: Tensor) -> None:
        self.images = images
        self.masks = masks
        self.labels = torch.zeros(len(images), dtype=torch.int64)  # no image has a class of its own

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> Tensor:
        """A view of image i."""
        return self.images[i]

    def mask(self, i: int) -> Tensor:
        """A view of mask i."""
        return self.masks[i]

    def size(self, i: int) -> tuple[int, int]:
        """The same for all."""
        height, width = self.images.shape[2:]
        return height, width

    def name(self, i: int) -> str:
        """Its number."""
        return f"image {i}"

    def identity(self, i: int) -> bytes:
        """Pixels of both."""
        return bytes(self.images[i].numpy().tobytes()) + bytes(self.masks[i].numpy().tobytes())


def has_masks(source: Source) -> bool:
    """Whether every image of a source has a mask."""
    return all(isinstance(holder, Masked) for holder in holders(source))


def mask_of(source: Source, i: int) -> Tensor:
    """The mask of image i, from whoever holds it.

    Raises:
        BadImageError: it cannot be had.
    """
    holder, place = stored_at(source, i)
    assert isinstance(holder, Masked)
    return holder.mask(place)


def pixels_of_classes(source: Source, num_classes: int) -> Tensor:
    """(C,) int64 pixels of each class in all masks that can be read; they are read now, one by one."""
    counts = torch.zeros(num_classes, dtype=torch.int64)
    for i in range(len(source)):
        try:
            counts += torch.bincount(mask_of(source, i).flatten(), minlength=256)[:num_classes]
        except BadImageError:
            continue  # whoever trains on it says so
    return counts


def size_of_image(source: Source, i: int) -> tuple[int, int]:
    """Height and width of image i of a source with masks, without decoding it."""
    holder, place = stored_at(source, i)
    assert isinstance(holder, Masked)
    return holder.size(place)
