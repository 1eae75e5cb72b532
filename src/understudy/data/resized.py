"""Training images scaled down once and kept in memory as JPEG, for a fifth of the decoding at every epoch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
from torchvision.transforms.v2 import functional as transforms

from understudy.core.image_size import ImageSize, covering, height_and_width
from understudy.data.augment.crops import EVAL_CROP
from understudy.data.cache import free_memory_bytes
from understudy.data.sources.base import Source, identity_of
from understudy.data.sources.decoding import BadImageError
from understudy.utils.errors import UserError
from understudy.utils.machine import num_cpus
from understudy.utils.seeding import globally_seeded
from understudy.utils.text import mib

__all__ = ["QUALITY", "ResizedSource", "resized_source"]

QUALITY = 95  # of the JPEG files; 40 kB an image of 256 x 340 pixels
CHUNK = 256  # images after which it is asked whether all of them are going to fit


class ResizedSource:
    """Images of another source as JPEG files in one tensor, which worker processes share without copies.

    Args:
        source: that they come from; what it says of labels and names stays.
        files: (bytes,) uint8, one file after the other.
        ends: where each file ends.
        unreadable: what is wrong with images that could not be read, by number; their files are empty.
    """

    def __init__(self, source: Source, files: Tensor, ends: list[int], unreadable: dict[int, str]) -> None:
        self.labels = source.labels
        self._source = source
        self._files = files
        self._ends = ends
        self._unreadable = unreadable

    @property
    def num_bytes(self) -> int:
        """Memory that the files take."""
        return len(self._files)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> Tensor:
        """(3,H,W) or (1,H,W) uint8. Raises BadImageError where it could not be read."""
        pixels: Tensor = decode_jpeg(self.file(i), mode=ImageReadMode.UNCHANGED)
        return pixels

    def file(self, i: int) -> Tensor:
        """(bytes,) uint8, the JPEG file. Raises BadImageError where the image could not be read."""
        if i in self._unreadable:
            raise BadImageError(self._unreadable[i])
        return self._files[self._ends[i - 1] if i else 0 : self._ends[i]]

    def name(self, i: int) -> str:
        """As the other source calls it."""
        return self._source.name(i)

    def identity(self, i: int) -> bytes:
        """Of the image that it was made of, or its own file where that says nothing."""
        found = identity_of(self._source, i)
        if found is not None:
            return found
        start = self._ends[i - 1] if i else 0
        return bytes(self._files[start : self._ends[i]].numpy().tobytes())


def resized_source(source: Source, size: ImageSize) -> ResizedSource:
    """The images of a source scaled until they cover 1.143 times a size, and kept in memory as JPEG.

    Smaller ones keep their pixels, but for JPEG's rounding. The same source and size give the same files.

    Args:
        source: of 8-bit images of one or three channels.
        size: of the largest input that they are going to be cut to.

    Raises:
        UserError: other images, or so many that they take more than half of the free memory.
    """
    height, width = height_and_width(size)
    around = round(EVAL_CROP * height), round(EVAL_CROP * width)
    files: list[Tensor] = []
    unreadable: dict[int, str] = {}
    free = free_memory_bytes()

    def encoded(i: int) -> Tensor:
        try:
            with globally_seeded(0):  # a data set's own transform may draw
                image = source.image(i)
        except BadImageError as error:
            unreadable[i] = str(error)
            return torch.empty(0, dtype=torch.uint8)
        return _encoded(image, around)

    with ThreadPoolExecutor(min(8, num_cpus())) as pool:  # decoders let go of the interpreter lock
        for start in range(0, len(source), CHUNK):
            files += pool.map(encoded, range(start, min(start + CHUNK, len(source))))
            taken = sum(len(file) for file in files)
            if (whole := taken * len(source) // len(files)) > free // 2:
                raise UserError(
                    f"data.cache: resized would take about {mib(whole)} of memory, more than half of the {mib(free)} "
                    "that are free; data.cache: false reads the images from disk every epoch"
                )
    return ResizedSource(source, torch.cat(files), list(accumulate(map(len, files))), unreadable)


def _encoded(image: Tensor, around: tuple[int, int]) -> Tensor:
    if image.dtype != torch.uint8 or image.shape[0] not in (1, 3):
        raise UserError(
            f"data.cache: resized keeps 8-bit images of one or three channels, and these are {image.dtype} of "
            f"{image.shape[0]}; set data.cache: false"
        )
    sides = covering(image.shape, around)
    if sides[0] < image.shape[-2]:
        image = transforms.resize(image, list(sides), antialias=True)
    file: Tensor = encode_jpeg(image.contiguous(), quality=QUALITY)
    return file
