"""A detector in a bank: maps of images that are padded to unlike sizes, and nothing that its heads say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["CANVAS", "MapsAlone"]

CANVAS = "canvas"  # (B,2) int32 height and width of the padded images that were seen


@dataclass(frozen=True, slots=True)
class MapsAlone:
    """No output: heads are asked about boxes that nobody knows beforehand. Of each image what it was padded to."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the tensors of some images are called on the disk."""
        return (CANVAS,)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image, without its maps."""
        return 2 * 4

    def in_words(self) -> str:
        """'maps alone'."""
        return "maps alone"

    def packed(self, output: object) -> dict[str, Tensor]:
        """Nothing of what the teacher gave."""
        return {}

    def unpacked(self, kept: Mapping[str, Tensor]) -> None:
        """Nothing, either."""
