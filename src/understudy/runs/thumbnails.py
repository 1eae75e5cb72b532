"""Small copies of images, as a page shows them."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from understudy.data import Source
from understudy.data.sources.base import SMALL
from understudy.data.sources.decoding import BadImageError

__all__ = ["SIDE", "thumbnail"]

SIDE = 112  # pixels of the longer side, beyond which an image is scaled down


def thumbnail(source: Source, i: int) -> bytes | None:
    """Image i of a source as PNG up to 64 pixels, else as JPEG of 112; None where it cannot be had or shown."""
    try:
        pixels = source.image(i)
    except (BadImageError, NotImplementedError, LookupError, OSError):
        return None
    if pixels.ndim != 3 or len(pixels) not in (1, 3):
        return None
    image = Image.fromarray(_as_bytes(pixels).expand(3, -1, -1).permute(1, 2, 0).cpu().contiguous().numpy())
    is_small = max(image.size) <= SMALL
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    if is_small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _as_bytes(pixels: Tensor) -> Tensor:
    """uint8 of an image; one whose numbers leave [0,1] is stretched to what there is."""
    if pixels.dtype == torch.uint8:
        return pixels
    pixels = pixels.float().nan_to_num()
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        pixels = (pixels - low) / max(high - low, 1e-12)
    return (pixels * 255).round().to(torch.uint8)
