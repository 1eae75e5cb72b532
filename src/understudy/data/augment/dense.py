"""Image and mask together: scaled, cropped and mirrored as a function of (seed, view, copy, sample index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from understudy.core.image_size import ImageSize, height_and_width
from understudy.data.augment.config import Augment, NoAugment, ScaleCrop
from understudy.data.config import DataConfig
from understudy.data.sources.base import Source
from understudy.data.sources.decoding import BadImageError
from understudy.data.sources.masked import IGNORED, mask_of
from understudy.utils.errors import UserError

__all__ = ["DenseRendering", "check_dense", "dense_augment_for", "masked_image"]


@dataclass(frozen=True, slots=True)
class DenseRendering:
    """A window of the scaled image and of its mask, padded where the image ends, mirrored or not.

    The image is scaled bilinearly (antialiased), the mask takes the nearest pixel. What is padded has the mean colour
    and no class. Draws from torch's global generator; `globally_seeded` decides what it finds there.
    """

    augment: Augment
    size: ImageSize  # of the windows
    shorter_side: int | None = None  # that images are brought to first; None: as they are
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN  # per channel in [0,1], the colour of the padding

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(3,S,S) and (S,S) of (3,H,W) and (H,W), both uint8."""
        base = 1.0 if self.shorter_side is None else self.shorter_side / min(image.shape[1:])
        augment = self.augment
        scale, is_mirrored, draws = base, False, torch.zeros(2)
        if isinstance(augment, ScaleCrop):
            drawn = torch.rand(4)
            scale, is_mirrored, draws = base * augment.factor(float(drawn[0])), bool(drawn[1] < 0.5), drawn[2:]
            is_mirrored = is_mirrored and augment.flip
        image, mask = _scaled(image, mask, scale)
        image, mask = _windows(image, mask, self.size, self.mean, draws)
        return (image.flip(-1), mask.flip(-1)) if is_mirrored else (image, mask)

    def whole(self, image: Tensor) -> Tensor:
        """The image as it is evaluated: all of it."""
        scale = 1.0 if self.shorter_side is None else self.shorter_side / min(image.shape[1:])
        return _resized(image, scale)


def dense_augment_for(config: DataConfig) -> Augment:
    """The settings' augmentation of images with masks.

    Raises:
        UserError: one that does not move masks.
    """
    if config.augment == "auto":
        return ScaleCrop()
    if isinstance(config.augment, ScaleCrop | NoAugment):
        return config.augment
    raise UserError(
        f"data.augment: {config.augment.name} moves images alone, and these have masks; take scale_crop, or none"
    )


def check_dense(config: DataConfig) -> None:
    """Refuse settings of the data that are about images of one class each.

    Raises:
        UserError: naming them.
    """
    dense_augment_for(config)
    set_otherwise = {
        "per_class": config.per_class is not None,
        "unlabelled": config.unlabelled is not None,
        "sampling: balanced": config.sampling == "balanced",
        "copies": config.copies != "none",
        "mix": config.mix is not None,
        "cache": config.cache not in ("auto", False),
        "streaming": config.streaming,
        "shorter_sides": config.shorter_sides is not None,
    }
    wrong = [f"data.{name}" for name, is_set in set_otherwise.items() if is_set]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: of images with one class each, and these have masks; leave it out")


def masked_image(source: Source, i: int) -> tuple[Tensor, Tensor]:
    """Image i and its mask, both as they are stored.

    Raises:
        BadImageError: one cannot be read, or they are of different sizes.
    """
    image, mask = source.image(i), mask_of(source, i)
    if image.shape[1:] != mask.shape:
        raise BadImageError(
            f"{source.name(i)}: the image has {_sides(image)} pixels and its mask {_sides(mask)}; both are to be of "
            "one size"
        )
    return image, mask


def _scaled(image: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    resized = _resized(image, scale)
    if resized.shape == image.shape:
        return image, mask
    rows, columns = (np.arange(to) * of // to for to, of in zip(resized.shape[1:], mask.shape, strict=True))
    return resized, torch.from_numpy(mask.numpy().take(rows, 0).take(columns, 1))  # six times torch's speed


def _resized(image: Tensor, scale: float) -> Tensor:
    sides = [max(1, round(side * scale)) for side in image.shape[1:]]
    if sides == list(image.shape[1:]):
        return image
    resized: Tensor = transforms.resize(image, sides, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return resized


def _windows(
    image: Tensor, mask: Tensor, size: ImageSize, mean: tuple[float, ...], draws: Tensor
) -> tuple[Tensor, Tensor]:
    """The window at a drawn place, padded on the right and below where the image is smaller."""
    height, width = height_and_width(size)
    pad = (0, max(0, width - image.shape[2]), 0, max(0, height - image.shape[1]))
    if any(pad):
        white = 1 if image.is_floating_point() else 255
        colour = torch.tensor([white * value for value in mean]).round(decimals=2 if white == 1 else 0)
        colour = colour.to(image.dtype)[:, None, None]
        padded = colour.expand(-1, image.shape[1] + pad[3], image.shape[2] + pad[1]).clone()
        padded[:, : image.shape[1], : image.shape[2]] = image
        image, mask = padded, F.pad(mask, pad, value=IGNORED)
    top, left = (int(draw * (have - want + 1)) for draw, have, want in zip(
        draws.tolist(), image.shape[1:], (height, width), strict=True))  # fmt: skip
    return image[:, top : top + height, left : left + width], mask[top : top + height, left : left + width]


def _sides(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]} x {tensor.shape[-2]}"
