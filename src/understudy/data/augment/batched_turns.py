"""Images turned about their centre, and mirrored or not, as whole batches: `rotate_flip`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.data.augment.by_rows import as_bits, as_numbers, uniform
from understudy.data.augment.config import RotateFlip
from understudy.utils.hashing import hashed_tensor

__all__ = ["NUM_TURNS", "Turns"]

NUM_TURNS = 2  # numbers that say what a turn is


@dataclass(frozen=True, slots=True)
class Turns:
    """By how much each image is turned, and whether it is mirrored."""

    degrees: Tensor  # (...) float64, counter-clockwise
    is_flipped: Tensor  # (...) bool

    @classmethod
    def drawn(cls, indices: Tensor, config: RotateFlip, *, seed: int, view: int, copies: int | Tensor = 0) -> Turns:
        """Any angle up to `degrees` alike; `copies` and `indices`, int64 on the CPU, broadcast against each other."""
        key = hashed_tensor(seed, view, copies, indices)
        degrees = uniform(key, "turn", low=-config.degrees, high=config.degrees)
        flips = hashed_tensor(key, "flip") % 2 == 1
        return cls(degrees, flips if config.flip else torch.zeros_like(flips))

    def packed(self) -> Tensor:
        """(2,...) int64, a row of each."""
        return torch.stack([as_bits(self.degrees), self.is_flipped.long()])

    @classmethod
    def unpacked(cls, rows: Tensor) -> Turns:
        """Those of (2,B) `packed`."""
        return cls(as_numbers(rows[0]), rows[1] == 1)

    def of(self, images: Tensor) -> Tensor:
        """(B,D,H,W) of the same dtype, black where nothing is; each pixel is the nearest one, as torchvision turns."""
        height, width = images.shape[-2:]
        angle = (-(self.degrees % 360) * (math.pi / 180))[:, None, None]
        cos, sin = angle.cos().float(), angle.sin().float()
        x = torch.linspace((1 - width) * 0.5, (width - 1) * 0.5, width, device=images.device)
        y = torch.linspace((1 - height) * 0.5, (height - 1) * 0.5, height, device=images.device)[:, None]
        half_width, half_height = torch.full_like(cos, 0.5 * width), torch.full_like(cos, 0.5 * height)
        across = x * cos.div(half_width) + y * sin.div(half_width)
        down = x * (-sin).div(half_height) + y * cos.div(half_height)
        places = torch.stack([across, down], -1)  # (B,H,W,2), -1 to 1 from edge to edge
        turned = F.grid_sample(images.float(), places, mode="nearest", padding_mode="zeros", align_corners=False)
        turned = turned.to(images.dtype)
        return torch.where(self.is_flipped[:, None, None, None], turned.flip(-1), turned)
