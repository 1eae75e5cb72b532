"""Encoded images to (3,H,W) uint8 RGB tensors, whatever their format and colour mode."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from understudy.config import UserError

__all__ = ["BadImageError", "decoded", "from_pil", "is_image_file", "printable"]

_JPEG_MAGIC = b"\xff\xd8\xff"


class BadImageError(UserError):
    """One image that cannot be read; its text is the image's name and the reason."""


def decoded(data: bytes, name: str) -> Tensor:
    """(3,H,W) uint8 RGB of an image file's bytes. EXIF orientation is ignored, as torchvision's ImageFolder does.

    Of an animation the first frame is taken. A CMYK JPEG is read as Adobe writes them (inverted), with its marker or
    without, as both torchvision and Pillow do.

    Raises:
        BadImageError: not an image, or a damaged one; the text starts with `name`.
    """
    if data.startswith(_JPEG_MAGIC):
        try:
            pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
            return pixels
        except RuntimeError:
            pass  # PIL reads a few kinds that torchvision does not, and says better what is wrong with the others
    try:
        with Image.open(io.BytesIO(data)) as image:
            return from_pil(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "is empty" if not data else str(error).split(" <_io")[0]
        raise BadImageError(f"{name}: {reason}") from None


def from_pil(image: Image.Image) -> Tensor:
    """(3,H,W) uint8 RGB of a PIL image; transparency is dropped, 16 bits become the upper 8.

    Raises:
        OSError: pixels that are floating-point numbers, of which nothing says what is white.
    """
    if image.mode == "F":
        raise OSError("its pixels are floating-point numbers, whose range nobody knows; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit greys; PIL's own conversion would clip them at 255
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return torch.from_numpy(grey).expand(3, -1, -1).contiguous()
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette with transparency does not convert to RGB directly
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def is_image_file(path: Path) -> bool:
    """Whether PIL knows the file by its header; the pixels are not decoded."""
    try:
        with Image.open(path):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def printable(path: str | Path) -> str:
    """A path as text that any terminal and JSON file takes: bytes of a name that is no UTF-8 are written \\xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
