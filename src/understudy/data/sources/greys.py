"""Greys of more than 8 bits: which value is black and which is white, one choice for a whole data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from understudy.utils.errors import UserError

__all__ = ["Greys", "as_8_bits", "chosen_greys", "deep_greys"]

Greys = tuple[float, float]  # the values that become 0 and 255

BIT_DEPTHS = (8, 10, 12, 14, 16)  # of cameras, scanners and files
FEWEST_LEVELS = 64  # of 256: a data set that would fill fewer is stretched from its smallest to its largest value


def deep_greys(image: Image.Image) -> np.ndarray[Any, Any] | None:
    """(H,W) pixels of a PIL image of more than 8 bits; None of all others."""
    return np.asarray(image) if image.mode == "F" or image.mode.startswith("I") else None


def as_8_bits(pixels: np.ndarray[Any, Any], greys: Greys | None) -> np.ndarray[Any, Any]:
    """Pixels as uint8: black at `greys[0]` and below, white at `greys[1]` and above, straight between them.

    Args:
        pixels: of any shape, whole or floating-point numbers.
        greys: of the data set; None: of these pixels alone, as if they were all of it.

    Raises:
        OSError: without `greys`, pixels of which nothing says what is white (see `chosen_greys`).
    """
    if greys is None:
        try:
            greys = chosen_greys([pixels])
        except UserError as error:
            raise OSError(str(error)) from None
    low, high = greys
    if np.issubdtype(pixels.dtype, np.integer) and low == int(low) and high == int(high) and high - low >= 255:
        # As many values for each of the 256: of 16 bits the upper 8.
        levels = (pixels.astype(np.int64) - int(low)) * 256 // (int(high - low) + 1)
    else:
        levels = np.rint((np.nan_to_num(pixels.astype(np.float64)) - low) * (255 / (high - low)))
    return levels.clip(0, 255).astype(np.uint8)


def chosen_greys(probed: Iterable[np.ndarray[Any, Any]]) -> Greys:
    """The range that pixels are scaled from, by the values of some images: a function of the data set.

    Black is 0 and white the largest value of as many bits (8, 10, 12, 14, 16) as the data take. Where they lie so
    close together that this would leave fewer than 64 of 256 greys (thermal cameras), it is their own range.

    Args:
        probed: pixels of whole numbers, of at least one image.

    Raises:
        UserError: floating-point or negative numbers, or more than 16 bits: nothing says what is black and white.
    """
    low, high = np.inf, -np.inf
    for pixels in probed:
        if not np.issubdtype(pixels.dtype, np.integer):
            raise UserError(f"its pixels are floating-point numbers, whose range nobody knows; {_WAYS_OUT}")
        low, high = min(low, int(pixels.min())), max(high, int(pixels.max()))
    if low < 0 or high > 65_535:
        kind = "signed numbers" if low < 0 else "numbers of more than 16 bits"
        raise UserError(f"its pixels are {kind} ({low:.0f} .. {high:.0f}), whose range nobody knows; {_WAYS_OUT}")
    white = next(2**bits - 1 for bits in BIT_DEPTHS if high < 2**bits)
    if 0 < high - low < white * FEWEST_LEVELS / 256:
        return float(low), float(high)
    return 0.0, float(white)


_WAYS_OUT = "set data.grey_range=[BLACK,WHITE], or save it with 8 or 16 bits"
