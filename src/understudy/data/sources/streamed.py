"""StreamedSource: images that are read in passing, from the beginning, and so have no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.data.sources.decoding import decoded, deep_greys_of
from understudy.data.sources.greys import Greys
from understudy.utils.errors import UserError

__all__ = ["PEEKED", "StreamedSource"]

PEEKED = 8  # images at the head that may be looked at by number, to choose an augmentation


class StreamedSource:
    """Base of splits that can only be read from their beginning. As a Source: a length, and no labels (all are -1).

    Loaders read one by `rows`, and ask for no image by its number; a subclass defines that and no more.

    Args:
        num_images: N.
        split: for messages.
    """

    def __init__(self, num_images: int, split: str) -> None:
        self.labels: Tensor = torch.full((num_images,), -1, dtype=torch.int64)
        self.greys: Greys | None = None  # of the data set; see `settle_greys`
        self.applies_exif = True  # see `set_orientation`
        self._split = split

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, *, seed: int | None = None, epoch: int = 1) -> Iterator[tuple[bytes, int]]:
        """(file's bytes, class number) of all images; with a seed in an order of that seed and epoch."""
        raise NotImplementedError

    def image(self, i: int) -> Tensor:
        """One of the first eight images. Raises UserError at others, and BadImageError where it cannot be read."""
        if i >= len(self._head):
            raise UserError(f"image {i} of a stream cannot be asked for by its number; leave out data.streaming")
        return decoded(self._head[i][0], self.name(i), self.greys, applies_exif=self.applies_exif)

    def deep_greys(self, i: int) -> np.ndarray[Any, Any] | None:
        """(H,W) pixels of one of the first eight images where it has more than 8 bits; None of all others."""
        return deep_greys_of(self._head[i][0]) if i < len(self._head) else None

    def name(self, i: int) -> str:
        """Its place in the stream."""
        return f"image {i} of the {self._split} stream"

    @cached_property
    def _head(self) -> list[tuple[bytes, int]]:
        return list(islice(self.rows(), PEEKED))
