"""FittedSource: another source's images at one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from understudy.core.image_size import ImageSize, covering, height_and_width
from understudy.data.sources.base import EncodedSource, Source

__all__ = ["FittedSource"]


class FittedSource(EncodedSource):
    """Another source's images at one size: scaled until they cover it, the centre is cut out."""

    def __init__(self, source: EncodedSource, size: ImageSize) -> None:
        self.labels = source.labels
        self.parts: Sequence[Source] = [source]
        self._source = source
        self._size = size

    def encoded(self, i: int) -> bytes:
        """As the other source has them."""
        return self._source.encoded(i)

    def opened(self, i: int) -> BinaryIO:
        """As the other source has them."""
        return self._source.opened(i)

    def num_bytes(self, i: int) -> int:
        """As the other source has them."""
        return self._source.num_bytes(i)

    def from_bytes(self, data: bytes, i: int) -> Tensor:
        """(3,H,W) uint8 RGB, (H,W) the size."""
        image = self._source.from_bytes(data, i)
        scaled = transforms.resize(image, list(covering(image.shape, self._size)), antialias=True)
        fitted: Tensor = transforms.center_crop(scaled, list(height_and_width(self._size)))
        return fitted

    def name(self, i: int) -> str:
        """As the other source calls it."""
        return self._source.name(i)
