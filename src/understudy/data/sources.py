"""Sources: images by number, with their labels and names. Cached ones are a single tensor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from understudy.config import UserError
from understudy.data.images import BadImageError, decoded

__all__ = ["SMALL", "FileSource", "Source", "TensorSource", "as_unit", "cached", "num_cpus", "rows_of", "small_size"]

SMALL = 64  # pixels: up to here images are "small": cached, cropped with padding, evaluated as they are


@runtime_checkable
class Source(Protocol):
    """N labelled images, decoded on demand."""

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

    def rows(self, indices: Tensor) -> TensorSource:
        """A copy of the rows `indices` (n,)."""
        names = [self.name(i) for i in indices.tolist()]
        return TensorSource(self.images[indices], self.labels[indices], names)


class FileSource:
    """Image files below one folder, read when asked for."""

    def __init__(self, root: Path, paths: Sequence[str], labels: Tensor) -> None:
        self.root = root
        self.paths = paths  # relative to root
        self.labels = labels

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, i: int) -> Tensor:
        """Read and decoded now."""
        try:
            data = (self.root / self.paths[i]).read_bytes()
        except OSError as error:
            raise BadImageError(f"{self.paths[i]}: {error.strerror}") from None
        return decoded(data, self.paths[i])

    def name(self, i: int) -> str:
        """The path below the root."""
        return self.paths[i]


class _Rows:
    """Some rows of another source."""

    def __init__(self, source: Source, indices: Tensor) -> None:
        self._source = source
        self._indices = indices
        self.labels = source.labels[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, i: int) -> Tensor:
        return self._source.image(int(self._indices[i]))

    def name(self, i: int) -> str:
        return self._source.name(int(self._indices[i]))


def rows_of(source: Source, indices: Tensor) -> Source:
    """The rows `indices` (n,) of a source, in that order."""
    return source.rows(indices) if isinstance(source, TensorSource) else _Rows(source, indices)


def small_size(source: Source) -> int | None:
    """Pixels a side of images that are in memory, square and small; None of others."""
    if isinstance(source, TensorSource) and source.images.shape[2] == source.images.shape[3] <= SMALL:
        return source.images.shape[2]
    return None


def as_unit(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0,1]; float images as float32, values unchanged."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def cached(source: Source, mode: Literal["auto"] | bool) -> tuple[Source, list[str]]:
    """The source decoded once into one tensor, where `mode` and its images allow it.

    Args:
        source: whose images are the same on every call.
        mode: "auto" wants square images of at most 64 pixels, all of one size, that take at most half of the free
            memory; True wants one size only.

    Returns:
        The cached source without the images that cannot be read, and what is wrong with those; or the source
        itself and an empty list.

    Raises:
        UserError: mode is True and the images have several sizes.
    """
    if mode is False or isinstance(source, TensorSource):
        return source, []
    first = _first_readable(source)
    if first is None:
        return source, []
    num_bytes = len(source) * first.numel() * first.element_size()
    is_small = first.shape[1] == first.shape[2] <= SMALL
    if mode == "auto" and not (is_small and num_bytes <= free_memory_bytes() // 2):
        return source, []
    images = first.new_empty((len(source), *first.shape))
    bad: dict[int, str] = {}
    if not _filled(images, source, bad):
        if mode is True:
            raise UserError("data.cache: true needs images of one size, and these have several; use data.cache: auto")
        return source, []
    names = [source.name(i) for i in range(len(source))]
    whole = TensorSource(images, source.labels, names)
    if bad:
        whole = whole.rows(torch.tensor([i for i in range(len(source)) if i not in bad], dtype=torch.int64))
    return whole, [bad[i] for i in sorted(bad)]


def num_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory_bytes() -> int:
    """Memory that can still be had, as Linux estimates it; 8 GiB where it cannot be asked."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8 << 30
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), 8 << 30)


def _first_readable(source: Source) -> Tensor | None:
    for i in range(len(source)):
        try:
            return source.image(i)
        except BadImageError:
            continue
    return None


def _filled(images: Tensor, source: Source, bad: dict[int, str]) -> bool:
    """Decode every image into `images`, noting unreadable ones in `bad`; False at the first of another size."""

    def fill(numbers: range) -> bool:
        for i in numbers:
            try:
                image = source.image(i)
            except BadImageError as error:
                bad[i] = str(error)
                continue
            if image.shape != images.shape[1:]:
                return False
            images[i] = image
        return True

    chunks = [range(start, min(start + 512, len(source))) for start in range(0, len(source), 512)]
    with ThreadPoolExecutor(min(8, num_cpus())) as pool:  # decoders let go of the interpreter lock
        is_whole = all(pool.map(fill, chunks))
        pool.shutdown(cancel_futures=True)
    return is_whole
