"""Random parts of images of any size, scaled to one size as a whole batch: `resized_crop` without Python per image.

Scaling with antialiasing is linear in the pixels, rows and columns apart: it makes W_y @ part @ W_x^T of a part, where
a row of W holds the weights of the pixels that an output pixel is made of. So parts of all sizes, padded, take two
batched matrix products; mirroring is W_x upside down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from understudy.core.image_size import ImageSize, height_and_width
from understudy.core.precision import exact_products
from understudy.data.augment.config import ResizedCrop
from understudy.utils.hashing import hashed_tensor

__all__ = ["NUM_PARTS", "Parts", "scaling_weights"]

NUM_PARTS = 5  # numbers that say what a part is
STEPS = 2**20  # in 1 of the weights of exact sums, which then stay below 2^53
TRIES = 10  # as torchvision's RandomResizedCrop draws before it takes the centre


@dataclass(frozen=True, slots=True)
class Parts:
    """Which part of each image is shown, and whether mirrored; (B,) int64 on the CPU each, flips bool."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    is_flipped: Tensor

    @classmethod
    def drawn(
        cls,
        indices: Tensor,
        sides: Tensor,
        config: ResizedCrop,
        *,
        seed: int,
        view: int,
        copies: Tensor,
        size: ImageSize,
    ) -> Parts:
        """Szegedy et al. 2015, as torchvision draws: so much of the area, of such a shape, anywhere; else the centre.

        Args:
            indices: (B,) int64 places in the data set; with seed, view and copy they decide everything.
            sides: (B,2) heights and widths.
            config: shares of the area, shapes, and whether half of the parts are mirrored.
            seed: of the run.
            view: version of the augmentation.
            copies: (B,) int64.
            size: of the student's images, whose shape `ratio` is a multiple of.
        """
        key, tries = hashed_tensor(seed, view, copies, indices), torch.arange(TRIES)
        heights, widths = sides[:, :1], sides[:, 1:]
        shape = height_and_width(size)[1] / height_and_width(size)[0]
        low, high = (ratio * shape for ratio in config.ratio)
        area = heights * widths * _between(*config.scale, hashed_tensor(key[:, None], "area", tries))
        ratio = _between(math.log(low), math.log(high), hashed_tensor(key[:, None], "ratio", tries)).exp()
        width, height = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
        first = fits.long().argmax(1, keepdim=True)
        height, width = height.gather(1, first)[:, 0], width.gather(1, first)[:, 0]
        top = hashed_tensor(key, "top") % (sides[:, 0] - height + 1).clamp_min(1)
        left = hashed_tensor(key, "left") % (sides[:, 1] - width + 1).clamp_min(1)
        centre_height, centre_width = _centre(sides, low, high)
        is_drawn = fits.any(1)
        height, width = torch.where(is_drawn, height, centre_height), torch.where(is_drawn, width, centre_width)
        top = torch.where(is_drawn, top, (sides[:, 0] - height) // 2)
        left = torch.where(is_drawn, left, (sides[:, 1] - width) // 2)
        flips = hashed_tensor(key, "flip") % 2 == 1
        return cls(top, left, height, width, flips if config.flip else torch.zeros_like(flips))

    def of(
        self,
        images: Sequence[Tensor],
        sizes: Sequence[ImageSize],
        *,
        is_cubic: Tensor | None = None,
        as_bytes: bool = False,
    ) -> list[Tensor]:
        """(B,3,S,S) float32 in [0,1] at each size, of (3,H,W) uint8 images, on their device.

        Args:
            images: of any sizes.
            sizes: of the student's images and perhaps the teacher's.
            is_cubic: (B,) bool on the CPU, which are scaled bicubically; None: none, all bilinearly.
            as_bytes: uint8, and exact: sums of weights in steps of 2^-20 that no order of adding up changes, so that
                an image is rounded alike whichever others pad it.
        """
        device, boxes = images[0].device, torch.stack([self.top, self.left, self.height, self.width], 1).tolist()
        most = int(self.height.max()), int(self.width.max())
        padded = torch.zeros(len(images), images[0].shape[0], *most, dtype=torch.uint8, device=device)
        for place, (image, (top, left, height, width)) in enumerate(zip(images, boxes, strict=True)):
            padded[place, :, :height, :width] = image[:, top : top + height, left : left + width]
        return self._scaled(padded, sizes, (None, None), is_cubic, as_bytes=as_bytes)

    def within(
        self, images: Tensor, sizes: Sequence[ImageSize], *, is_cubic: Tensor | None, as_bytes: bool
    ) -> list[Tensor]:
        """`of` images (B,3,H,W) of one size, uint8, with the parts on their device, of which nothing is read.

        The same bytes; floats differ by rounding.
        """
        return self._scaled(images, sizes, (self.top, self.left), is_cubic, as_bytes=as_bytes)

    def packed(self) -> Tensor:
        """(5,...) int64, a row of each."""
        return torch.stack([self.top, self.left, self.height, self.width, self.is_flipped.long()])

    @classmethod
    def unpacked(cls, rows: Tensor) -> Parts:
        """Those of (5,B) `packed`."""
        top, left, height, width, is_flipped = rows
        return cls(top, left, height, width, is_flipped == 1)

    def _scaled(
        self,
        images: Tensor,
        sizes: Sequence[ImageSize],
        starts: tuple[Tensor | None, Tensor | None],
        is_cubic: Tensor | None,
        *,
        as_bytes: bool,
    ) -> list[Tensor]:
        """Of images (B,3,H,W) uint8, parts of which begin at rows and columns `starts`."""
        device, most = images.device, images.shape[-2:]
        pixels = images.double() if as_bytes else images.float() / 255
        found = []
        with exact_products(device.type):
            for size in sizes:
                height, width = height_and_width(size)
                weights = partial(scaling_weights, is_cubic=is_cubic, is_exact=as_bytes)
                rows = weights(self.height, most[0], height, starts=starts[0])
                columns = weights(self.width, most[1], width, starts=starts[1])
                columns = torch.where(self.is_flipped[:, None, None], columns.flip(1), columns)
                if as_bytes:
                    rows, columns = ((part.double() * STEPS).round() for part in (rows, columns))
                rows, columns = (part.to(device, non_blocking=True)[:, None] for part in (rows, columns))
                shown = rows @ pixels @ columns.mT
                if as_bytes:
                    shown = (shown * STEPS**-2).round().clamp(0, 255).byte()
                elif is_cubic is not None:  # whose curve goes below 0 and above 1
                    shown = shown.clamp(0, 1)
                found.append(shown)
        return found


def scaling_weights(
    lengths: Tensor,
    most: int,
    size: int,
    *,
    starts: Tensor | None = None,
    is_cubic: Tensor | None = None,
    is_exact: bool = False,
) -> Tensor:
    """(B,S,L) float32 weights of L pixels, of which `lengths` (B,) count from `starts` (B,) on, in S output pixels.

    The triangle of bilinear interpolation, or the curve of bicubic where (B,) `is_cubic`, as wide as the output pixel
    where the image is made smaller: torch's `interpolate` with antialias. A row adds up to 1; where `is_exact`, it is
    brought to that by a sum of whole numbers, which no further pixels change.
    """
    scale = lengths[:, None, None].double() / size
    centres = (torch.arange(size, device=lengths.device)[:, None] + 0.5) * scale  # (B,S,1)
    places = torch.arange(most, device=lengths.device) + 0.5  # (L,)
    if starts is not None:
        places = places - starts[:, None, None]
    away = (places - centres).abs() / scale.clamp_min(1)
    weights = (1 - away).clamp_min(0)
    if is_cubic is not None:
        weights = torch.where(is_cubic[:, None, None], _cubic(away), weights)
    weights = weights * ((places > 0) & (places < lengths[:, None, None]))
    if is_exact:
        weights = (weights * 2**30).round()
    return (weights / weights.sum(2, keepdim=True)).float()


def _cubic(away: Tensor) -> Tensor:
    """Keys 1981, with a = -1/2, as Pillow and torch scale with antialias."""
    near = (1.5 * away - 2.5) * away**2 + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    return torch.where(away < 1, near, torch.where(away < 2, far, 0.0))


def _between(low: float, high: float, hashes: Tensor) -> Tensor:
    return low + (high - low) * (hashes.double() / 2**63)


def _centre(sides: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Heights and widths of the largest centres that are not too narrow and not too wide."""
    height, width = sides[:, 0].double(), sides[:, 1].double()
    wide = width / height
    return (
        torch.where(wide < low, width / low, height).round().long(),
        torch.where(wide > high, height * high, width).round().long(),
    )
