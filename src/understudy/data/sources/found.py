"""What a reader of one format finds at data.root, and the checks that all formats share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from understudy.data.sources.base import Source
from understudy.utils.errors import UserError
from understudy.utils.text import listed, plural

__all__ = ["BadImages", "Found", "SplitName", "checked_labels", "split_name"]

SplitName = Literal["train", "val", "test"]

_SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Found:
    """The splits as they are stored; "train" is always among them."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[SplitName, Source]
    val_words: str = "val split"  # where the val split comes from, if there is one
    no_images: tuple[str, ...] = ()  # files that are none
    bad: tuple[str, ...] = ()  # images that were read already and left out since they could not be, and why
    notes: tuple[str, ...] = ()
    held_out: Source | None = None  # train without its own augmentation, which images held out of it are taken from
    are_greys_settled: bool = False  # whether the range of greys of more than 8 bits was chosen already


@dataclass(frozen=True, slots=True)
class BadImages:
    """Files or rows that cannot be used, as one sentence to print or to stop with."""

    names: Sequence[str]
    what: tuple[str, str] = ("file is no image", "files are no images")

    def note(self) -> str:
        """'2 files are no images: a, b (skipped; ...)'."""
        return f"{self._sentence()} (skipped; `data.on_bad_image: stop` to refuse)"

    def left_out(self) -> str:
        """'2 files are no images: a, b (skipped)'."""
        return f"{self._sentence()} (skipped)"

    def error(self, *, way_out: str = "take them away, or leave them out with data.on_bad_image: skip") -> UserError:
        """The same as an error, with the way out."""
        return UserError(f"{self._sentence()}; {way_out}")

    def _sentence(self, most: int = 10) -> str:
        return f"{plural(len(self.names), *self.what)}: {listed(self.names, most)}"


def split_name(word: str) -> SplitName | None:
    """The split that a folder or a file of this name holds: train, val, valid, validation, test."""
    return _SPLIT_NAMES.get(word.lower())


def checked_labels(labels: Tensor, num_classes: int, *, what: str) -> Tensor:
    """The labels (N,), if all are in 0..num_classes-1.

    Raises:
        UserError: one is outside; the text names it, its row and `what`.
    """
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside):
        row = int(outside[0])
        raise UserError(
            f"{what}: label {int(labels[row])} of row {row} is outside 0..{num_classes - 1} "
            f"({num_classes} classes; {len(outside)} such rows); number the classes from 0, without gaps"
        )
    return labels.to(torch.int64)
