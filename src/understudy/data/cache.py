"""cached: a source's images decoded once into one tensor, where they are small enough."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from understudy.data.sources.base import EncodedSource, Source, TensorSource, images_in_memory, is_small, stored_at
from understudy.data.sources.decoding import BadImageError
from understudy.utils.errors import UserError
from understudy.utils.machine import num_cpus
from understudy.utils.seeding import globally_seeded
from understudy.utils.text import mib

__all__ = ["Cached", "cached", "digest", "first_readable", "free_memory_bytes"]


@dataclass(frozen=True, slots=True)
class Cached:
    """A source after the attempt to decode it once.

    Attributes:
        source: in memory without the images that cannot be read, or as it was.
        bad: what is wrong with those, each with its name.
        digests: of each image's file (see `digest`), where it was read; None where none was.
    """

    source: Source
    bad: tuple[str, ...] = ()
    digests: Sequence[bytes | None] | None = None


def cached(
    source: Source,
    mode: Literal["auto", "resized"] | bool,
    *,
    takes_rectangles: bool = False,
    what: str = "these images",
) -> Cached:
    """The source decoded once into one tensor, where `mode` and its images allow it.

    Whether it is settles the input size and the draws of the augmentation. So that a recipe means the same pixels on
    every day and rank, memory never decides it: where that is short, the source is refused.

    Args:
        source: whose images are the same on every call.
        mode: "auto" and "resized" want small images (see `is_small`), all of one size; True wants one size only.
        takes_rectangles: whether images that are no squares can be small.
        what: names the source in messages.

    Raises:
        UserError: mode is "auto" and such images take more than half of the free memory, or mode is True and the
            images have several sizes.
    """
    if mode is False or images_in_memory(source) is not None:
        return Cached(source)
    mode = "auto" if mode == "resized" else mode  # of large ones the training images alone, once their size is known
    first = first_readable(source)
    if first is None or (mode == "auto" and not is_small(first, takes_rectangles=takes_rectangles)):
        return Cached(source)
    num_bytes, free = len(source) * first.numel() * first.element_size(), free_memory_bytes()
    if mode == "auto" and num_bytes > free // 2:
        raise UserError(
            f"{what} would take {mib(num_bytes)} of memory decoded, more than half of the {mib(free)} that are free; "
            "data.cache: true decodes them once all the same, data.cache: false reads them from disk every epoch (then "
            "at data.image_size, or the model's own input size)"
        )
    images = first.new_empty((len(source), *first.shape))
    filling = _Filling(source, images)
    if not filling.is_whole():
        if mode is True:
            raise UserError("data.cache: true needs images of one size, and these have several; use data.cache: auto")
        return Cached(source)
    whole = TensorSource(images, source.labels, [source.name(i) for i in range(len(source))])
    good = [i for i in range(len(source)) if i not in filling.bad]
    if filling.bad:
        whole = whole.rows(torch.tensor(good, dtype=torch.int64))
    bad = tuple(filling.bad[i] for i in sorted(filling.bad))
    return Cached(whole, bad, [filling.digests[i] for i in good])


def digest(data: bytes) -> bytes:
    """Eight bytes of length and sixteen of hash: equal for equal files, and for no others."""
    return len(data).to_bytes(8, "big") + hashlib.blake2b(data, digest_size=16).digest()


def first_readable(source: Source) -> Tensor | None:
    """The first image that can be read."""
    for i in range(len(source)):
        with suppress(BadImageError), globally_seeded(0):  # a data set's own transform may draw
            return source.image(i)
    return None


def free_memory_bytes() -> int:
    """Memory that can still be had, as Linux estimates it; 8 GiB where it cannot be asked."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8 << 30
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), 8 << 30)


class _Filling:
    """Decodes every image of a source into a tensor (N,3,H,W), in threads."""

    def __init__(self, source: Source, images: Tensor) -> None:
        self.bad: dict[int, str] = {}
        self.digests: list[bytes | None] = [None] * len(source)
        self._source = source
        self._images = images

    def is_whole(self) -> bool:
        """Decode them all; False at the first of another size."""
        chunks = [range(start, min(start + 512, len(self._source))) for start in range(0, len(self._source), 512)]
        with ThreadPoolExecutor(min(8, num_cpus())) as pool:  # decoders let go of the interpreter lock
            is_whole = all(pool.map(self._fill, chunks))
            pool.shutdown(cancel_futures=True)
        return is_whole

    def _fill(self, numbers: range) -> bool:
        for i in numbers:
            try:
                image = self._read(i)
            except BadImageError as error:
                self.bad[i] = str(error)
                continue
            if image.shape != self._images.shape[1:]:
                return False
            self._images[i] = image
        return True

    def _read(self, i: int) -> Tensor:
        source, place = stored_at(self._source, i)
        if not isinstance(source, EncodedSource):
            return source.image(place)
        data = source.encoded(place)
        self.digests[i] = digest(data)
        return source.from_bytes(data, place)
