"""Images of another source under other class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from understudy.core.boxes import Boxes
from understudy.data.sources.base import PointingSource, Source, TensorSource, identity_of
from understudy.data.sources.boxed import boxes_of_image, has_boxes, size_of_boxed
from understudy.data.sources.masked import IGNORED, has_masks, mask_of, size_of_image

__all__ = ["Renumbered", "RenumberedBoxes", "RenumberedMasks", "renumbered"]


class Renumbered(PointingSource):
    """Another source's images, its class i as class `numbers[i]`; images without a label (-1) stay so.

    Args:
        source: of N images.
        numbers: the new number of each class.
        prefix: of the images' names.
    """

    def __init__(self, source: Source, numbers: Sequence[int], *, prefix: str = "") -> None:
        self.labels = torch.tensor([*numbers, -1], dtype=torch.int64)[source.labels]
        self.parts = [source]
        self._source = source
        self._prefix = prefix

    def at(self, i: int) -> tuple[Source, int]:
        """Image i of the other source."""
        return self._source, i

    def name(self, i: int) -> str:
        """The other source's name of it, with the prefix."""
        return f"{self._prefix}{self._source.name(i)}"


class RenumberedMasks:
    """Another source's images and masks, its class i as class `numbers[i]`; pixels without a class stay so.

    Args:
        source: of N images with masks.
        numbers: the new number of each class.
        prefix: of the images' names.
    """

    def __init__(self, source: Source, numbers: Sequence[int], *, prefix: str = "") -> None:
        self.labels = source.labels
        self._source = source
        self._prefix = prefix
        self._table = torch.full((256,), IGNORED, dtype=torch.uint8)
        self._table[: len(numbers)] = torch.tensor(numbers, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self._source)

    def image(self, i: int) -> Tensor:
        """Image i of the other source."""
        return self._source.image(i)

    def mask(self, i: int) -> Tensor:
        """Its mask, renumbered."""
        return self._table[mask_of(self._source, i).long()]

    def size(self, i: int) -> tuple[int, int]:
        """As the other source says."""
        return size_of_image(self._source, i)

    def name(self, i: int) -> str:
        """The other source's name of it, with the prefix."""
        return f"{self._prefix}{self._source.name(i)}"

    def identity(self, i: int) -> bytes:
        """As the other source says, if it does."""
        return identity_of(self._source, i) or self.name(i).encode()


class RenumberedBoxes:
    """Another source's images and boxes, its class i as class `numbers[i]`.

    Args:
        source: of N images with boxes.
        numbers: the new number of each class.
        prefix: of the images' names.
    """

    def __init__(self, source: Source, numbers: Sequence[int], *, prefix: str = "") -> None:
        self.labels = source.labels
        self._source = source
        self._prefix = prefix
        self._table = torch.tensor(numbers, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._source)

    def image(self, i: int) -> Tensor:
        """Image i of the other source."""
        return self._source.image(i)

    def target(self, i: int) -> Boxes:
        """Its boxes, renumbered."""
        boxes = boxes_of_image(self._source, i)
        return replace(boxes, labels=self._table[boxes.labels])

    def size(self, i: int) -> tuple[int, int]:
        """As the other source says."""
        return size_of_boxed(self._source, i)

    def name(self, i: int) -> str:
        """The other source's name of it, with the prefix."""
        return f"{self._prefix}{self._source.name(i)}"

    def identity(self, i: int) -> bytes:
        """As the other source says, if it does."""
        return identity_of(self._source, i) or self.name(i).encode()


def renumbered(source: Source, numbers: Sequence[int], *, prefix: str = "") -> Source:
    """The same images under other class numbers; those in memory stay a source of images in memory."""
    if has_masks(source):
        return RenumberedMasks(source, numbers, prefix=prefix)
    if has_boxes(source):
        return RenumberedBoxes(source, numbers, prefix=prefix)
    other = Renumbered(source, numbers, prefix=prefix)
    if not isinstance(source, TensorSource):
        return other
    return TensorSource(source.images, other.labels, [other.name(i) for i in range(len(source))])
