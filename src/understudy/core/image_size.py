"""The size of the images that a network takes: one number of pixels for squares, or (height, width)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from understudy.utils.errors import UserError, shortened_repr

__all__ = [
    "LARGEST",
    "ImageSize",
    "checked_size",
    "covering",
    "has_shape_of",
    "height_and_width",
    "size_from",
    "size_of",
    "size_text",
    "squares_note",
]

LARGEST = 8_192  # pixels a side

_WHOLE_NUMBER = TypeAdapter(int)


def size_from(value: Any) -> int | tuple[int, int]:
    """A setting as an image size: a number, or a pair [height, width]; a pair of equal sides is the number.

    So every size is written in one way only, and squares as they always were.

    Raises:
        ValueError: it is neither, or a side is none from 1 to 8,192.
    """
    sides = list(value) if isinstance(value, list | tuple) else [value]
    try:
        pixels = [_WHOLE_NUMBER.validate_python(side) for side in sides if not isinstance(side, bool)]
    except ValidationError:
        pixels = []
    if len(pixels) not in (1, 2) or (isinstance(value, list | tuple) and len(pixels) == 1):
        raise ValueError(f"is a number of pixels, or [height, width] of them, got {shortened_repr(value)}")
    if not all(1 <= side <= LARGEST for side in pixels):
        raise ValueError(f"is 1 to {LARGEST:,} pixels a side, got {shortened_repr(value)}")
    return size_of((pixels[0], pixels[-1]))


ImageSize = Annotated[int | tuple[int, int], BeforeValidator(size_from)]
"""H = W of squares, in pixels, or (H, W) with H != W; `size_from` and `size_of` make it."""


def size_of(shape: Sequence[int]) -> ImageSize:
    """The size of images of shape (..., H, W)."""
    height, width = shape[-2:]
    return height if height == width else (height, width)


def checked_size(size: Any, *, what: str = "image_size") -> ImageSize:
    """A size that was given in Python, which may be a list, or a pair of equal sides.

    Raises:
        UserError: it is none; `what` names it.
    """
    try:
        return size_from(size)
    except ValueError as error:
        raise UserError(f"{what} {error}") from None


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """(H, W) in pixels."""
    return size if isinstance(size, tuple) else (size, size)


def size_text(size: ImageSize) -> str:
    """In words: "96", or "96 x 160" (height x width)."""
    return f"{size[0]} x {size[1]}" if isinstance(size, tuple) else str(size)


def has_shape_of(size: ImageSize, shape: Sequence[int]) -> bool:
    """Whether images of shape (..., H, W) fill the size when they are scaled, without anything cut off."""
    height, width = shape[-2:]
    wanted_height, wanted_width = height_and_width(size)
    return height * wanted_width == width * wanted_height


def covering(shape: Sequence[int], size: ImageSize) -> tuple[int, int]:
    """What images of shape (..., H, W) are scaled to so that they just cover the size: one side is that of the size.

    The other one, which is no shorter, is rounded down, as in torchvision's resize.
    """
    height, width = shape[-2:]
    wanted_height, wanted_width = height_and_width(size)
    if height * wanted_width <= width * wanted_height:
        return wanted_height, wanted_height * width // height
    return wanted_width * height // width, wanted_width


def squares_note(size: Any) -> str:
    """What to add to the words of a network that failed at a size: the way out, where that is no square."""
    is_wide = isinstance(size, list | tuple) and len(set(size)) > 1
    return "; where it takes squares alone, let images be squares (data.image_size: one number)" if is_wide else ""
