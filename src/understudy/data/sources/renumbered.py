"""Images of another source under other class numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from understudy.data.sources.base import PointingSource, Source, TensorSource

__all__ = ["Renumbered", "renumbered"]


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


def renumbered(source: Source, numbers: Sequence[int]) -> Source:
    """The same images under other class numbers; those in memory stay a source of images in memory."""
    other = Renumbered(source, numbers)
    if not isinstance(source, TensorSource):
        return other
    return TensorSource(source.images, other.labels, [source.name(i) for i in range(len(source))])
