"""Data sets made in Python whose samples are (image, mask)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from understudy.data.config import DataConfig
from understudy.data.sources.decoding import BadImageError, from_pil
from understudy.data.sources.found import Found, SplitName
from understudy.data.sources.mask_table import MaskTable
from understudy.data.splits import DataSplits, splits_of
from understudy.utils.errors import UserError
from understudy.utils.seeding import globally_seeded

__all__ = ["DatasetMaskedSource", "gives_masks", "masked_splits"]


class DatasetMaskedSource:
    """A data set of (image, mask) as a source.

    An image is a PIL one, or a tensor (3,H,W), uint8 or floating-point, which is left as it is. A mask is a PIL image
    of class numbers or a palette, or integers (H,W) or (1,H,W).

    Args:
        dataset: with a length; N samples.
        table: what the numbers in masks mean.
    """

    def __init__(self, dataset: Any, table: MaskTable) -> None:
        self.dataset = dataset
        self.table = table
        self.labels = torch.zeros(len(dataset), dtype=torch.int64)  # no image has a class of its own
        self._seen: tuple[int, Any] | None = None  # the last sample: its image is asked for before its mask

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, i: int) -> Tensor:
        """Of a look at sample i, whose mask is kept."""
        image, mask = self.dataset[i]
        self._seen = i, mask
        found = from_pil(image) if isinstance(image, Image.Image) else torch.as_tensor(image)
        if found.ndim != 3 or found.shape[0] != 3:
            raise BadImageError(f"{self.name(i)}: the image has shape {tuple(found.shape)}; (3,H,W) is wanted")
        return found

    def mask(self, i: int) -> Tensor:
        """Of the same look, so that both are moved alike by transforms that draw."""
        if self._seen is None or self._seen[0] != i:
            self.image(i)
        assert self._seen is not None
        mask, self._seen = _numbers(self._seen[1]), None
        if mask is None:
            raise BadImageError(f"{self.name(i)}: its mask holds no class numbers (H,W)")
        if int(mask.min()) < 0 or int(mask.max()) > 255:  # as torch marks what is ignored
            mask = np.where(mask < 0, 255, mask)
        return self.table.classes_of(mask.astype(np.uint8), self.name(i))

    def size(self, i: int) -> tuple[int, int]:
        """By a look at it."""
        with globally_seeded(0):
            height, width = self.image(i).shape[1:]
        return height, width

    def name(self, i: int) -> str:
        """Its number."""
        return f"sample {i}"


def gives_masks(dataset: Any) -> bool:
    """Whether the first sample of a data set is an image with a mask."""
    try:
        with globally_seeded(0):
            sample = dataset[0]
    except Exception:  # whoever reads it next says what is wrong with it
        return False
    return isinstance(sample, tuple | list) and len(sample) == 2 and _numbers(sample[1]) is not None


def masked_splits(
    given: Mapping[SplitName, Any], classes: Sequence[str] | None, *, name: str, config: DataConfig
) -> DataSplits:
    """The splits of data sets of (image, mask).

    Raises:
        UserError: nobody names the classes, or settings of images with one class each.
    """
    names = classes if classes is not None else getattr(given["train"], "classes", None)
    if not isinstance(names, list | tuple) or len(names) < 2:
        raise UserError("these samples have masks: name their classes in order, classes=['background', ...]")
    table = MaskTable(len(names), config.class_map, ignored=config.ignored)
    splits = {split: DatasetMaskedSource(dataset, table) for split, dataset in given.items()}
    return splits_of(Found(name, tuple(map(str, names)), splits, are_greys_settled=True), config)


def _numbers(mask: Any) -> np.ndarray[Any, Any] | None:
    """(H,W) integers of a mask; None of anything else."""
    if isinstance(mask, Image.Image):
        return np.asarray(mask) if mask.mode in ("P", "L", "1") else None
    if not isinstance(mask, Tensor | np.ndarray):
        return None
    values = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
    values = values[0] if values.ndim == 3 and values.shape[0] == 1 else values
    return values if values.ndim == 2 and values.dtype.kind in "iub" else None
