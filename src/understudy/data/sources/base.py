"""Sources: images by number, with their labels and names. Cached ones are a single tensor."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from understudy.core.image_size import ImageSize, size_of
from understudy.data.sources.decoding import BadImageError, decoded, deep_greys_of, printable
from understudy.data.sources.greys import Greys

__all__ = [
    "SMALL",
    "EncodedSource",
    "FileSource",
    "PointingSource",
    "Source",
    "TensorSource",
    "as_unit",
    "holders",
    "identity_of",
    "images_in_memory",
    "is_small",
    "joined",
    "rows_of",
    "small_size",
    "stored_at",
]

SMALL = 64  # pixels: up to here images are "small": cached, cropped with padding, evaluated as they are


@runtime_checkable
class Source(Protocol):
    """N labelled images, decoded on demand. One that also has `identity(i)` says what tells image i (`identity_of`)."""

    labels: Tensor  # (N,) int64

    def __len__(self) -> int: ...

    def image(self, i: int) -> Tensor:
        """(3,H,W): uint8 RGB, or float, which is left as it is. Raises BadImageError where it cannot be read."""

    def name(self, i: int) -> str:
        """What messages call image i."""


class TensorSource:
    """Equal-sized images in one tensor.

    Args:
        images: (N,3,H,W) uint8, or float in [0,1].
        labels: (N,) int64.
        names: of the images, for messages.
    """

    def __init__(self, images: Tensor, labels: Tensor, names: Sequence[str] | None = None) -> None:
        self.images = images
        self.labels = labels
        self._names = names

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> Tensor:
        """A view of image i."""
        return self.images[i]

    def name(self, i: int) -> str:
        """Its given name, else its number."""
        return f"image {i}" if self._names is None else self._names[i]

    def identity(self, i: int) -> bytes:
        """Its pixels."""
        return bytes(self.images[i].cpu().numpy().tobytes())

    def rows(self, indices: Tensor) -> TensorSource:
        """A copy of the rows `indices` (n,)."""
        return TensorSource(self.images[indices], self.labels[indices], [self.name(i) for i in indices.tolist()])


class EncodedSource:
    """Base of sources whose images lie somewhere as the bytes of image files."""

    labels: Tensor  # (N,) int64
    greys: Greys | None = None  # of the data set, where it has greys of more than 8 bits; see `settle_greys`
    applies_exif: bool = True  # whether images are turned upright; see `set_orientation`

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, i: int) -> bytes:
        """The file's bytes. Raises BadImageError where there are none to be had."""
        raise NotImplementedError

    def opened(self, i: int) -> BinaryIO:
        """The file, to read its header from. Raises BadImageError or OSError where there is none."""
        return io.BytesIO(self.encoded(i))

    def num_bytes(self, i: int) -> int:
        """The file's size; 0 where it cannot be had."""
        try:
            return len(self.encoded(i))
        except BadImageError:
            return 0

    def identity(self, i: int) -> bytes:
        """The file's name and size."""
        return f"{self.name(i)}\0{self.num_bytes(i)}\n".encode()

    def from_bytes(self, data: bytes, i: int) -> Tensor:
        """(3,H,W) uint8 RGB of what `encoded(i)` gave. Raises BadImageError, which names the image."""
        return decoded(data, self.name(i), self.greys, applies_exif=self.applies_exif)

    def deep_greys(self, i: int) -> np.ndarray[Any, Any] | None:
        """(H,W) pixels of an image of more than 8 bits; None of others."""
        try:
            return deep_greys_of(self.encoded(i))
        except BadImageError:
            return None

    def image(self, i: int) -> Tensor:
        """Read and decoded now."""
        return self.from_bytes(self.encoded(i), i)

    def name(self, i: int) -> str:
        """What messages call image i."""
        raise NotImplementedError


class FileSource(EncodedSource):
    """Image files below one folder, read when asked for."""

    def __init__(self, root: Path, paths: Sequence[str], labels: Tensor) -> None:
        self.root = root
        self.paths = paths  # relative to root
        self.labels = labels

    def encoded(self, i: int) -> bytes:
        """Read now."""
        try:
            return (self.root / self.paths[i]).read_bytes()
        except OSError as error:
            raise BadImageError(f"{self.name(i)}: {error.strerror}") from None

    def opened(self, i: int) -> BinaryIO:
        """Opened now."""
        return (self.root / self.paths[i]).open("rb")

    def num_bytes(self, i: int) -> int:
        """As the file system says, without opening the file."""
        try:
            return (self.root / self.paths[i]).stat().st_size
        except OSError:
            return 0

    def name(self, i: int) -> str:
        """The path below the root."""
        return printable(self.paths[i])


class PointingSource:
    """Base of sources that hold no image but know who does."""

    labels: Tensor  # (N,) int64
    parts: Sequence[Source]  # those that its images come from

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, i: int) -> tuple[Source, int]:
        """The source that image i comes from, and its number there."""
        raise NotImplementedError

    def image(self, i: int) -> Tensor:
        """As the other source has it."""
        source, place = self.at(i)
        return source.image(place)

    def name(self, i: int) -> str:
        """As the other source calls it."""
        source, place = self.at(i)
        return source.name(place)


class _Rows(PointingSource):
    """Some rows of another source."""

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.labels = source.labels[indices]
        self.parts = [source]
        self._source = source
        self._indices = indices

    def at(self, i: int) -> tuple[Source, int]:
        return self._source, int(self._indices[i])


class _Joined(PointingSource):
    """Several sources one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.labels = torch.cat([source.labels for source in sources])
        self.parts = sources
        self._ends = list(accumulate(map(len, sources)))

    def at(self, i: int) -> tuple[Source, int]:
        part = bisect_right(self._ends, i)
        return self.parts[part], i - (self._ends[part - 1] if part else 0)


def rows_of(source: Source, indices: Tensor) -> Source:
    """The rows `indices` (n,) of a source, in that order."""
    return source.rows(indices) if isinstance(source, TensorSource) else _Rows(source, indices)


def joined(sources: Sequence[Source]) -> Source:
    """One source of all images, in the order given."""
    return sources[0] if len(sources) == 1 else _Joined(sources)


def stored_at(source: Source, i: int) -> tuple[Source, int]:
    """The source that holds image i itself, where this one only points to it, and its number there."""
    while isinstance(source, PointingSource):
        source, i = source.at(i)
    return source, i


def identity_of(source: Source, i: int) -> bytes | None:
    """What tells image i from others without decoding it; None where its source does not say."""
    holder, place = stored_at(source, i)
    identity: Callable[[int], bytes] | None = getattr(holder, "identity", None)
    return None if identity is None else identity(place)


def holders(source: Source) -> Iterator[Source]:
    """The sources that hold the images of this one themselves, or fetch them; some may come twice."""
    parts: Sequence[Source] | None = getattr(source, "parts", None)
    if parts is None:
        yield source
    for part in parts or ():
        yield from holders(part)


def images_in_memory(source: Source) -> Tensor | None:
    """All images (N,D,H,W) of a source that has them as one tensor; None of others, which are read image by image."""
    return source.images if isinstance(source, TensorSource) else None


def is_small(image: Tensor, *, takes_rectangles: bool) -> bool:
    """Whether an image (...,H,W) is so small that all of it is shown, augmented or not: up to 64 pixels either side.

    Args:
        image: whose shape is looked at.
        takes_rectangles: of images that are no squares, too; else squares are cut of these, whatever their size.
    """
    height, width = image.shape[-2:]
    return max(height, width) <= SMALL and (height == width or takes_rectangles)


def small_size(source: Source, *, takes_rectangles: bool) -> ImageSize | None:
    """Size of images that are in memory and small (see `is_small`); None of others."""
    images = images_in_memory(source)
    if images is None or not is_small(images, takes_rectangles=takes_rectangles):
        return None
    return size_of(images.shape)


def as_unit(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0,1]; float images as float32, values unchanged."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()
