"""Encoded images to (3,H,W) uint8 RGB tensors, whatever their format and colour mode."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from understudy.data.sources.greys import Greys, as_8_bits, deep_greys
from understudy.utils.errors import UserError

__all__ = [
    "UNREADABLE",
    "BadImageError",
    "decoded",
    "deep_greys_of",
    "from_pil",
    "is_image_file",
    "printable",
    "size_from_header",
    "upright",
]

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises on a damaged file
_JPEG_MAGIC = b"\xff\xd8\xff"
# Of EXIF's orientations; PIL's own exif_transpose also writes the EXIF block anew, which fails on damaged ones.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SIDEWAYS = (5, 6, 7, 8)  # those that swap height and width


class BadImageError(UserError):
    """One image that cannot be read; its text is the image's name and the reason."""


def decoded(data: bytes, name: str, greys: Greys | None = None, *, applies_exif: bool = True) -> Tensor:
    """(3,H,W) uint8 RGB of an image file's bytes.

    Of an animation the first frame is taken. A CMYK JPEG is read as Adobe writes them (inverted), with its marker or
    without, as both torchvision and Pillow do.

    Args:
        data: of the file.
        name: for messages.
        greys: the range that greys of more than 8 bits are scaled from; see `from_pil`.
        applies_exif: whether it is turned upright as its EXIF orientation says; else it is left as it lies in the file,
            as torchvision's ImageFolder does.

    Raises:
        BadImageError: not an image, or a damaged one; the text starts with `name`.
    """
    if data.startswith(_JPEG_MAGIC):
        try:
            pixels: Tensor = decode_jpeg(
                torch.frombuffer(bytearray(data), dtype=torch.uint8),
                mode=ImageReadMode.RGB,
                apply_exif_orientation=applies_exif,
            )
            return pixels
        except RuntimeError:
            pass  # PIL reads a few kinds that torchvision does not, and says better what is wrong with the others
    try:
        with Image.open(io.BytesIO(data)) as image:
            return from_pil(upright(image) if applies_exif else image, greys)
    except UNREADABLE as error:
        reason = "is empty" if not data else str(error).split(" <_io")[0]
        raise BadImageError(f"{name}: {reason}") from None


def upright(image: Image.Image) -> Image.Image:
    """A PIL image turned as its EXIF orientation says; itself where it says nothing, or nothing that can be read.

    Raises:
        OSError: as PIL, for a damaged image.
    """
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of a damaged EXIF block, anything; the picture itself is whole
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def size_from_header(image: Image.Image, *, applies_exif: bool = True) -> tuple[int, int]:
    """Height and width that an opened image will be decoded to, by its header alone.

    Args:
        image: opened, not loaded.
        applies_exif: whether it is going to be turned upright as its EXIF orientation says.
    """
    width, height = image.size
    if not applies_exif or image.format == "TIFF":  # which Pillow turns by itself, and says the size of
        return height, width
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # of a damaged EXIF block, anything
        orientation = 1
    return (width, height) if orientation in _SIDEWAYS else (height, width)


def from_pil(image: Image.Image, greys: Greys | None = None, *, channels: int = 3) -> Tensor:
    """(3,H,W) uint8 RGB of a PIL image, or (1,H,W) of greys; transparency is dropped.

    Args:
        image: of any mode.
        greys: values that become black and white, of greys of more than 8 bits; None: by this image alone.
        channels: 3, or 1 for greys.

    Raises:
        OSError: without `greys`, signed or floating-point pixels, of which nothing says what is white.
    """
    deep = deep_greys(image)
    if deep is not None:  # PIL's own conversion would clip them at 255
        return torch.from_numpy(as_8_bits(deep, greys)).expand(channels, -1, -1).contiguous()
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette with transparency does not convert to RGB directly
    if channels == 1:
        return torch.from_numpy(np.array(image.convert("L")))[None]
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def deep_greys_of(data: bytes) -> np.ndarray[Any, Any] | None:
    """(H,W) pixels of a file of more than 8 bits a pixel; None of others, and of those that cannot be read."""
    if data.startswith(_JPEG_MAGIC):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            return deep_greys(image)
    except UNREADABLE:
        return None


def is_image_file(path: Path) -> bool:
    """Whether PIL knows the file by its header; the pixels are not decoded."""
    try:
        with Image.open(path):
            return True
    except UNREADABLE:
        return False


def printable(path: str | Path) -> str:
    """A path as text that any terminal and JSON file takes: bytes of a name that is no UTF-8 are written \\xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
