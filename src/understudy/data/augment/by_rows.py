"""Numbers drawn for every row of a batch from hashes, and changes of the rows that were drawn for them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from understudy.utils.hashing import hashed_tensor

__all__ = ["as_bits", "as_numbers", "changed", "normal", "uniform"]

Change = Callable[..., Tensor]  # of images (n,D,H,W) and what was drawn for each


def uniform(key: Tensor, *what: int | str | Tensor, low: float = 0, high: float = 1) -> Tensor:
    """float64 in [low, high) of the key's shape, by name of what is drawn."""
    return low + (high - low) * (hashed_tensor(key, *what).double() / 2**63)


def normal(hashes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """N(0,1) from the 63 bits of a hash each (Box and Muller 1958); at most 6.6 to either side."""
    share, angle = ((hashes >> 32) + 1).to(dtype) / 2**31, (hashes & (2**31 - 1)).to(dtype) / 2**31
    return (-2 * share.log()).sqrt() * (2 * math.pi * angle).cos()


def as_bits(numbers: Tensor) -> Tensor:
    """float64 as int64 of the same bits, to travel among whole numbers."""
    return numbers.double().contiguous().view(torch.int64)


def as_numbers(bits: Tensor) -> Tensor:
    """Those of `as_bits`."""
    return bits.contiguous().view(torch.float64)


def changed(images: Tensor, rows: Tensor, change: Change, *drawn: Tensor, in_groups: bool) -> Tensor:
    """The images, of which some rows are changed.

    Args:
        images: (B,D,H,W).
        rows: (B,) bool, which.
        change: of images and of what was drawn for them, row by row.
        drawn: (B,) each; with `rows` all on one device.
        in_groups: `rows` is read, and only these are worked on: for the CPU, or where `rows` lies there beside images
            elsewhere. Else all are worked on, and nothing is read from the device: what a CUDA graph can repeat.
    """
    if not in_groups:
        return torch.where(rows[:, None, None, None], change(images, *drawn), images)
    numbers = rows.nonzero().flatten()
    if len(numbers) == 0:
        return images
    there = numbers.to(images.device)
    found = change(images[there], *(part[numbers].to(images.device) for part in drawn))
    return images.index_copy(0, there, found)
