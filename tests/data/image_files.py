"""Small real image files, made from a seed."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def pixels(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth random pixels: JPEG keeps them nearly as they are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def jpeg_bytes(seed: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """A JPEG file of (height, width)."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed, *size)).save(file, "JPEG", quality=95)
    return file.getvalue()
