"""Pillow's operations on 8-bit images as whole batches, on any device: each row by its own argument, the same pixels.

Bit for bit what Pillow makes on x86-64: whole numbers where it has whole numbers, its float32 in blends and its
float64 in turned and shifted images, with its order of operations (tests/data/test_batched_pil.py). Pillow built with
fused multiply-adds, as on other processors, rounds a pixel in some thousands the other way.

All take images (B,3,H,W) uint8 and an argument (B,) for each, and read nothing from the device.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "affine",
    "coloured",
    "contrasting",
    "equalizing",
    "looked_up",
    "rotations",
    "sharpened",
    "stretching",
]

GREY = (19595, 38470, 7471)  # shares of red, green and blue in 65536, ITU-R 601-2
CACHED = 2**14 - 1  # values turned at once on a CPU: so few float64 that malloc has the memory at hand


def looked_up(images: Tensor, tables: Tensor) -> Tensor:
    """What each value becomes by the table of its image, (B,1,256) or of its channel, (B,3,256)."""
    tables = tables.expand(-1, images.shape[1], -1)
    return tables.gather(2, images.flatten(2).long()).view(images.shape)


def stretching(images: Tensor) -> Tensor:
    """(B,3,256) uint8 tables of autocontrast: each channel stretched until its values begin at 0 and end at 255."""
    low, high = (of(images.flatten(2), 2).double()[..., None] for of in (torch.amin, torch.amax))
    # Not 255 / (high - low), which torch makes a product with the reciprocal; infinite where there is one value only.
    scale = torch.full_like(high, 255).div(high - low)
    stretched = (_values(images) * scale + -low * scale).clamp(0, 255)
    return torch.where(high > low, stretched, _values(images)).byte()


def equalizing(images: Tensor) -> Tensor:
    """(B,3,256) uint8 tables of equalize: each channel's values moved until they are about equally frequent."""
    flat = images.flatten(2).long()
    counts = flat.new_zeros(*flat.shape[:2], 256).scatter_add_(2, flat, torch.ones_like(flat))
    last = counts.gather(2, flat.amax(2, keepdim=True))  # how often the lightest value comes
    step = (flat.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    moved = ((step // 2 + before) // step.clamp_min(1)).clamp_max(255)
    return torch.where(step > 0, moved, _values(images).long()).byte()


def contrasting(images: Tensor, factors: Tensor) -> Tensor:
    """(B,1,256) uint8 tables of less or more contrast: blends with the image's mean brightness."""
    total, count = _grey(images).sum((1, 2, 3)).view(-1, 1, 1), images[0, 0].numel()
    mean = ((2 * total + count) // (2 * count)).float()
    return (mean + factors.float().view(-1, 1, 1) * (_values(images).float() - mean)).clamp(0, 255).byte()


def _grey(images: Tensor) -> Tensor:
    """(B,1,H,W) int32, the brightness that Pillow's mode L has."""
    red, green, blue = images.int()[:, :, None].unbind(1)
    return (red * GREY[0] + green * GREY[1] + blue * GREY[2] + 0x8000) >> 16


def _blend(start: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """From `start` at a factor of 0 over the images at 1 and on, cut off at 0 and 255."""
    start = start.float()
    return (start + factors.float().view(-1, 1, 1, 1) * (images.float() - start)).clamp(0, 255).byte()


def coloured(images: Tensor, factors: Tensor) -> Tensor:
    """Less or more colour: blends with the grey image."""
    return _blend(_grey(images), images, factors)


def sharpened(images: Tensor, factors: Tensor) -> Tensor:
    """Blurred or sharpened: blends with the image smoothed by 3x3 pixels, whose middle counts five times."""
    smooth = images.clone()
    if min(images.shape[-2:]) > 2:
        wide = images.short()
        lines = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
        total = lines[..., :-2, :] + lines[..., 1:-1, :] + lines[..., 2:, :] + 4 * wide[..., 1:-1, 1:-1]
        # total / 13, rounded; a half cannot come up
        smooth[..., 1:-1, 1:-1] = ((2 * total + 13) // 26).byte()
    return _blend(smooth, images, factors)


def rotations(degrees: Tensor, height: int, width: int) -> Tensor:
    """(B,6) float64 for `affine`: turned counter-clockwise about the centre."""
    angle = -(degrees.double() % 360) * (math.pi / 180)
    cos, sin = angle.cos().round(decimals=15), angle.sin().round(decimals=15)
    x, y = width / 2, height / 2
    return torch.stack([cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y], -1)


def affine(
    images: Tensor, matrices: Tensor, fill: Tensor, *, is_cubic: bool, along: Literal["x", "y"] | None = None
) -> Tensor:
    """Pixel (x,y) shows the image at (a x + b y + c, d x + e y + f), between pixels bilinearly or bicubically.

    Args:
        images: (B,D,H,W) uint8.
        matrices: (B,6) float64, a to f.
        fill: (D,) uint8, shown where the place is outside.
        is_cubic: whether between 16 pixels instead of 4.
        along: "x": all matrices have (d,e,f) = (0,1,0), so that lines stay lines, and a quarter of the pixels is looked
            at; "y": (a,b,c) = (1,0,0). The same result.
    """
    if images.device.type == "cpu" and len(images) > 1:
        at_once = max(1, CACHED // images[0].numel())
        if len(images) > at_once:
            parts = zip(images.split(at_once), matrices.split(at_once), strict=True)  # type: ignore[no-untyped-call]
            return torch.cat([affine(*part, fill, is_cubic=is_cubic, along=along) for part in parts])
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device).double() + 0.5
    y = (torch.arange(height, device=images.device).double() + 0.5)[:, None]
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(1)
    across, down = a * x + b * y + c, d * x + e * y + f  # (B,H,W)
    is_inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    across, down = across.sub_(0.5), down.sub_(0.5)
    left, top = across.floor(), down.floor()
    flat, around = images.flatten(2).double(), range(-1, 3) if is_cubic else range(2)
    columns = [(left + by).clamp_(0, width - 1).long() for by in (around if along != "y" else (0,))]
    rows = [(top + by).clamp_(0, height - 1).long().mul_(width) for by in (around if along != "x" else (0,))]
    between = _cubic if is_cubic else _linear
    lines = []
    for row in rows:
        near = [_picked(flat, row + column).view(images.shape) for column in columns]
        lines.append(between(near, across.sub(left)[:, None]) if len(near) > 1 else near[0])
    shown = between(lines, down.sub(top)[:, None]) if len(lines) > 1 else lines[0]
    return torch.where(is_inside[:, None], shown.clamp_(0, 255).byte(), fill.view(-1, 1, 1))


def _picked(flat: Tensor, places: Tensor) -> Tensor:
    """Those of (B,D,H*W) at places (B,H,W)."""
    return flat.gather(2, places.flatten(1)[:, None].expand(-1, flat.shape[1], -1))


def _linear(values: list[Tensor], share: Tensor) -> Tensor:
    first, second = values
    return (second - first).mul_(share).add_(first)


def _cubic(values: list[Tensor], share: Tensor) -> Tensor:
    """Keys 1981, with a = -1."""
    v1, v2, v3, v4 = values
    found = (v2 - v1).sub_(v3).add_(v4).mul_(share)
    found.add_((v1 - v2).mul_(2).add_(v3).sub_(v4)).mul_(share)
    return found.add_(v3 - v1).mul_(share).add_(v2)


def _values(images: Tensor) -> Tensor:
    """0 to 255, float64."""
    return torch.arange(256, device=images.device).double()
