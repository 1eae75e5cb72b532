"""Augmentation as a function of (seed, view, copy, sample index), for whole batches and for single images.

Whole batches of small images: integer hashes in tensors, the same on every device. Single images, in workers:
torchvision's transforms, with `random`, numpy and torch seeded from the same hash. The two need not give equal pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import RandomCrop, RandomResizedCrop
from torchvision.transforms.v2 import functional as transforms

from understudy.data.augment_config import Augment, CropFlip, NoAugment, ResizedCrop
from understudy.data.config import DataConfig
from understudy.data.images import BadImageError
from understudy.data.sources import SMALL, Source, TensorSource
from understudy.hashing import hashed_tensor

__all__ = ["Rendering", "augment_for", "crop_flip", "fitted", "resized", "seeded"]

EVAL_CROP = 1.143  # shorter side / crop: 256 / 224


def augment_for(config: DataConfig, source: Source) -> Augment:
    """The settings' augmentation; "auto" chooses by the images.

    Digits: a crop with one pixel of padding, unflipped (a mirrored 2 is no digit). Float images (which went through
    a transform of their own): none. Small images: crop_flip; others: resized_crop.
    """
    if config.augment != "auto":
        return config.augment
    if config.format == "digits" or config.root == "digits":
        return CropFlip(pad=1, flip=False)
    samples = _samples(source)
    if any(sample.is_floating_point() for sample in samples):
        return NoAugment()
    is_small = len({sample.shape for sample in samples}) == 1 and all(map(_is_small, samples))
    return CropFlip() if is_small else ResizedCrop()


def crop_flip(
    images: Tensor, indices: Tensor, config: CropFlip, *, seed: int, view: int, copies: int | Tensor = 0
) -> Tensor:
    """A window of every zero-padded image, mirrored or not, without Python per image.

    Args:
        images: (B,3,H,W) of any dtype.
        indices: (B,) int64 places in the data set; with seed, view and copy they decide offset and flip.
        config: padding in pixels, and whether half of the windows are mirrored.
        seed: of the run.
        view: version of the augmentation.
        copies: (B,) int64 or one number.

    Returns:
        (B,3,H,W) of the same dtype.
    """
    key = hashed_tensor(seed, view, copies, indices)
    if config.pad:
        offsets = hashed_tensor(key, "offset") % (2 * config.pad + 1) ** 2
        top, left = offsets // (2 * config.pad + 1), offsets % (2 * config.pad + 1)
        padded = F.pad(images, (config.pad,) * 4)
        height, width = images.shape[2:]
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B,3,2*pad+1,2*pad+1,H,W), a view
        images = windows[torch.arange(len(images), device=images.device), :, top, left]
    if config.flip:
        is_flipped = hashed_tensor(key, "flip") % 2 == 1
        images = torch.where(is_flipped[:, None, None, None], images.flip(-1), images)
    return images


@dataclass(frozen=True, slots=True)
class Rendering:
    """One decoded image at the student's and the teacher's input size, both from the same crop.

    Draws from torch's global generator; `seeded` decides what it finds there.
    """

    augment: Augment
    image_size: int
    teacher_size: int | None = None  # None where equal

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """(3,H,W) to (3,S,S) and, where the teacher's size T differs, (3,T,T); the dtype stays."""
        if isinstance(self.augment, ResizedCrop):
            box = RandomResizedCrop.get_params(image, list(self.augment.scale), list(self.augment.ratio))
            image = _mirrored(transforms.crop(image, *box), self.augment.flip)
            return self._at_both_sizes(image, resized)
        if isinstance(self.augment, CropFlip):
            image = image if _is_small(image) else fitted(image, max(self.image_size, self.teacher_size or 0))
            padded = F.pad(image, (self.augment.pad,) * 4)
            height, width = image.shape[-2:]
            box = RandomCrop.get_params(padded, (height, width))
            return self._at_both_sizes(_mirrored(transforms.crop(padded, *box), self.augment.flip), resized)
        return self._at_both_sizes(image, resized if _is_small(image) else fitted)

    def _at_both_sizes(self, image: Tensor, at_size: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor | None]:
        return at_size(image, self.image_size), at_size(image, self.teacher_size) if self.teacher_size else None


def resized(images: Tensor, size: int) -> Tensor:
    """(...,3,H,W) as (...,3,size,size), bilinear with antialiasing; those of that size as they are."""
    if images.shape[-2:] == (size, size):
        return images
    scaled: Tensor = transforms.resize(images, [size, size], antialias=True)
    return scaled


def fitted(images: Tensor, size: int) -> Tensor:
    """The central (size, size) of (...,3,H,W) after its shorter side became 1.143 times that; see `resized`."""
    if images.shape[-2:] == (size, size):
        return images
    centre: Tensor = transforms.center_crop(
        transforms.resize(images, [round(size * EVAL_CROP)], antialias=True), [size]
    )
    return centre


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """`random`, numpy's and torch's CPU generators started from `seed`, and put back afterwards."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


def _mirrored(image: Tensor, is_wanted: bool) -> Tensor:
    return image.flip(-1) if is_wanted and torch.rand(()) < 0.5 else image


def _is_small(image: Tensor) -> bool:
    return image.shape[-2] == image.shape[-1] <= SMALL


def _samples(source: Source, most: int = 8) -> list[Tensor]:
    """The first few readable images; of cached ones one is enough."""
    if isinstance(source, TensorSource):
        return [source.images[0]]
    found: list[Tensor] = []
    with seeded(0):  # a data set's own transform may draw
        for i in range(min(most, len(source))):
            with suppress(BadImageError):
                found.append(source.image(i))
    return found
