"""Sources whose images have a mask each: a class number for every pixel."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from understudy.data.sources.base import FileSource, Source, holders, stored_at
from understudy.data.sources.decoding import UNREADABLE, BadImageError, printable

__all__ = [
    "IGNORED",
    "ArrayMaskedSource",
    "MaskTable",
    "Masked",
    "MaskedSource",
    "has_masks",
    "mask_of",
    "size_of_image",
]

IGNORED = 255  # of a pixel that has no class
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


@runtime_checkable
class Masked(Protocol):
    """A source that has a mask for each of its images."""

    def mask(self, i: int) -> Tensor:
        """(H,W) uint8 class numbers, 255 where a pixel has none. Raises BadImageError where it cannot be had."""

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image i, without decoding it."""


class MaskTable:
    """What the numbers in mask files mean.

    Args:
        num_classes: C.
        classes: number of the class by the value in a file; values that are not there are ignored. None: the value is
            the class, and one that is no class is refused.
        ignored: the value of pixels without a class, where there is no table.
    """

    def __init__(self, num_classes: int, classes: dict[int, int] | None = None, *, ignored: int = IGNORED) -> None:
        self.num_classes = num_classes
        self.is_closed = classes is None  # whether other values are refused
        self.table = np.full(256, IGNORED, dtype=np.uint8)
        known = {value: value for value in range(num_classes)} if classes is None else classes
        for value, number in known.items():
            self.table[value] = number
        self.known = np.zeros(256, dtype=bool)
        self.known[[*known, ignored, IGNORED]] = True
        if classes is None and ignored != IGNORED:
            self.table[ignored] = IGNORED

    def classes_of(self, values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], name: str) -> Tensor:
        """(H,W) class numbers of what a file holds.

        Raises:
            BadImageError: a value that is no class.
        """
        if self.is_closed and not self.known[values].all():
            wrong = np.unique(values[~self.known[values]])
            raise BadImageError(
                f"{name}: the mask holds {', '.join(map(str, wrong[:5]))}, and there are {self.num_classes} classes "
                f"(0..{self.num_classes - 1}); name all classes, or say with data.class_map what the numbers mean"
            )
        return torch.from_numpy(self.table[values])


class MaskedSource(FileSource):
    """Image files below one folder, and mask files below another, pair by pair."""

    def __init__(
        self, root: Path, paths: Sequence[str], mask_root: Path, mask_paths: Sequence[str], table: MaskTable
    ) -> None:
        super().__init__(root, paths, torch.zeros(len(paths), dtype=torch.int64))  # no image has a class of its own
        self.mask_root = mask_root
        self.mask_paths = mask_paths  # relative to mask_root
        self.table = table

    def mask(self, i: int) -> Tensor:
        """Read now."""
        return self.table.classes_of(self.values(i), self.mask_name(i))

    def values(self, i: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """(H,W) what the file of mask i holds, of a palette the numbers of its colours.

        Raises:
            BadImageError: it cannot be read, or holds colours rather than numbers.
        """
        name = self.mask_name(i)
        try:
            with Image.open(io.BytesIO((self.mask_root / self.mask_paths[i]).read_bytes())) as image:
                if image.mode not in ("P", "L", "1"):
                    raise BadImageError(
                        f"{name}: a mask is a PNG with a class number for each pixel (modes L, P, 1), this one has "
                        f"mode {image.mode}; convert its colours to class numbers"
                    )
                return np.asarray(image, dtype=np.uint8)
        except BadImageError:
            raise
        except UNREADABLE as error:
            raise BadImageError(f"{name}: {getattr(error, 'strerror', None) or error}") from None

    def mask_name(self, i: int) -> str:
        """What messages call mask i."""
        return printable(self.mask_paths[i])

    def size(self, i: int) -> tuple[int, int]:
        """By the file's header."""
        try:
            with self.opened(i) as file, Image.open(file) as image:
                width, height = image.size
                turned = self.applies_exif and image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
                return (width, height) if turned else (height, width)
        except UNREADABLE as error:
            raise BadImageError(f"{self.name(i)}: {error}") from None

    def identity(self, i: int) -> bytes:
        """Names and sizes of both files."""
        path = self.mask_root / self.mask_paths[i]
        num_bytes = path.stat().st_size if path.is_file() else 0
        return super().identity(i) + f"{self.mask_name(i)}\0{num_bytes}\n".encode()


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


def size_of_image(source: Source, i: int) -> tuple[int, int]:
    """Height and width of image i of a source with masks, without decoding it."""
    holder, place = stored_at(source, i)
    assert isinstance(holder, Masked)
    return holder.size(place)
