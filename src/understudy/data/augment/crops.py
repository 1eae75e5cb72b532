"""Augmentation as a function of (seed, view, copy, sample index), for whole batches and for single images.

Whole batches of small images: integer hashes in tensors, the same on every device. Single images, in workers:
torchvision's transforms, with `random`, numpy and torch started from the same hash. The two need not give equal pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomCrop, RandomResizedCrop, RandomRotation
from torchvision.transforms.v2 import functional as transforms

from understudy.core.image_size import ImageSize, covering, height_and_width, size_of
from understudy.data.augment.after_crop import with_parts
from understudy.data.augment.boxes import box_augment_for
from understudy.data.augment.config import (
    Augment,
    AugmentParts,
    CropFlip,
    NoAugment,
    ResizedCrop,
    RotateFlip,
    ScaleCrop,
)
from understudy.data.config import DataConfig
from understudy.data.sources.base import Source, images_in_memory, is_small
from understudy.data.sources.boxed import has_boxes
from understudy.data.sources.decoding import BadImageError
from understudy.data.sources.masked import has_masks
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed_tensor
from understudy.utils.seeding import globally_seeded

__all__ = [
    "Rendering",
    "augment_for",
    "covered",
    "crop_flip",
    "crop_share",
    "first_samples",
    "fitted",
    "globally_seeded",
    "resized",
    "second_augment_for",
    "takes_rectangles",
]

EVAL_CROP = 1.143  # shorter side / crop: 256 / 224


def augment_for(config: DataConfig, source: Source) -> Augment:
    """The settings' augmentation; "auto" chooses by the images.

    Digits: a crop with one pixel of padding, unflipped (a mirrored 2 is no digit). Float images (which went through
    a transform of their own): none. Small images: crop_flip; others: resized_crop.
    """
    if has_masks(source):
        return ScaleCrop() if config.augment == "auto" else config.augment
    if has_boxes(source):
        return box_augment_for(config)
    if isinstance(config.augment, ScaleCrop):
        raise UserError("data.augment: scale_crop is of images with masks, and these have none; take another one")
    if config.augment != "auto":
        return config.augment
    if config.format == "digits" or config.root == "digits":
        return CropFlip(pad=1, flip=False)
    samples = first_samples(source)
    if any(sample.is_floating_point() for sample in samples):
        return NoAugment()
    rectangles = takes_rectangles(config, source)
    are_small = all(is_small(sample, takes_rectangles=rectangles) for sample in samples)
    return CropFlip() if are_small and len({sample.shape for sample in samples}) == 1 else ResizedCrop()


def second_augment_for(config: DataConfig, source: Source) -> Augment | None:
    """The augmentation of the second view of pairs, likewise; None: that of the first."""
    if config.second_augment is None:
        return None
    return augment_for(config.model_copy(update={"augment": config.second_augment}), source)


def takes_rectangles(config: DataConfig, source: Source) -> bool:
    """Whether small images of a source that are no squares are shown as they are.

    They are where [height, width] is asked for, and where they are in memory and decide the size themselves.
    """
    return config.takes_rectangles and (config.image_size is not None or images_in_memory(source) is not None)


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
    return Windows.drawn(indices, config, seed=seed, view=view, copies=copies).of(images)


@dataclass(frozen=True, slots=True)
class Windows:
    """Which window of every padded image is shown, and whether mirrored; drawn at once for as many as are wanted."""

    pad: int  # pixels on each side
    top: Tensor  # (...) int64, 0 .. 2 pad
    left: Tensor  # (...) int64
    is_flipped: Tensor | None  # (...) bool; None: never

    @classmethod
    def drawn(cls, indices: Tensor, config: CropFlip, *, seed: int, view: int, copies: int | Tensor = 0) -> Windows:
        """Those that `crop_flip` shows; `copies` and `indices` broadcast against each other."""
        key = hashed_tensor(seed, view, copies, indices)
        side = 2 * config.pad + 1
        offsets = hashed_tensor(key, "offset") % side**2 if config.pad else torch.zeros_like(key)
        is_flipped = hashed_tensor(key, "flip") % 2 == 1 if config.flip else None
        return cls(config.pad, offsets // side, offsets % side, is_flipped)

    def packed(self) -> Tensor:
        """(R,N) int64 of windows (K,N): top, left and, where some are mirrored, whether each is, a row a copy."""
        flips = [] if self.is_flipped is None else [self.is_flipped.long()]
        return torch.cat([self.top, self.left, *flips])

    @classmethod
    def unpacked(cls, rows: Tensor, config: CropFlip, *, num_copies: int) -> Windows:
        """Those of some columns of `packed`, one copy after the other."""
        top, left, *flips = rows.reshape(-1, num_copies * rows.shape[1])
        return cls(config.pad, top, left, flips[0] == 1 if flips else None)

    def of(self, images: Tensor) -> Tensor:
        """(B,3,H,W) to the windows of the same shape and dtype."""
        if self.pad:
            padded = F.pad(images, (self.pad,) * 4)
            height, width = images.shape[2:]
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B,3,2*pad+1,2*pad+1,H,W), a view
            images = windows[torch.arange(len(images), device=images.device), :, self.top, self.left]
        if self.is_flipped is not None:
            images = torch.where(self.is_flipped[:, None, None, None], images.flip(-1), images)
        return images


@dataclass(frozen=True, slots=True)
class Rendering:
    """One decoded image at the student's and the teacher's input size: one crop, and one draw of all that follows it.

    A `resized_crop` takes a part that has the shape of the student's input, give or take its `ratio`, and scales it to
    both sizes. All else scales the image until it covers the input, and cuts out the centre. So nothing is squeezed
    but by `ratio`, and for a teacher whose input has another shape than the student's.

    The student's pixels do not depend on the teacher's size. Draws from `random`, numpy's and torch's global
    generators; `globally_seeded` decides what it finds there.
    """

    augment: Augment
    image_size: ImageSize
    teacher_size: ImageSize | None = None  # None where equal
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN  # of the student's normalisation, see `with_parts`
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    takes_rectangles: bool = False  # see the function of that name
    second: Augment | None = None  # of copy 1 of a pair; None: as copy 0

    def of_copy(self, copy: int) -> Rendering:
        """What renders that copy of a sample."""
        return replace(self, augment=self.second) if copy and self.second is not None else self

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """(3,H,W) at the student's size and, where the teacher's differs, at that.

        The dtype stays, except that erasing gives float32 in [0,1] with noise that leaves it.
        """
        sizes = [self.image_size] if self.teacher_size is None else [self.image_size, self.teacher_size]
        if isinstance(self.augment, NoAugment):
            at_size = covered if self._is_small(image) else fitted
            return _as_pair([at_size(image, size) for size in sizes])
        assert not isinstance(self.augment, ScaleCrop), "images with masks have a rendering of their own"
        parts: AugmentParts = self.augment
        shown = self._cut(image)
        scaling = random.choice(("bilinear", "bicubic")) if parts.interpolation == "random" else parts.interpolation
        at_size = resized if isinstance(parts, ResizedCrop) else covered
        pictures = [at_size(shown, size, interpolation=scaling) for size in sizes]
        if parts.has_parts:
            pictures = with_parts(pictures, parts, interpolation=parts.interpolation, mean=self.mean, std=self.std)
        return _as_pair(pictures)

    def _cut(self, image: Tensor) -> Tensor:
        """What is seen of the image, at its own resolution, mirrored or not."""
        augment = self.augment
        assert not isinstance(augment, NoAugment | ScaleCrop)
        if isinstance(augment, ResizedCrop):
            height, width = height_and_width(self.image_size)
            box = RandomResizedCrop.get_params(
                image, list(augment.scale), [r * (width / height) for r in augment.ratio]
            )
            return _mirrored(transforms.crop(image, *box), augment.flip)
        image = image if self._is_small(image) else fitted(image, self._larger_size())
        if isinstance(augment, RotateFlip):
            angle = RandomRotation.get_params([-augment.degrees, augment.degrees])
            return _mirrored(transforms.rotate(image, angle), augment.flip)
        padded = F.pad(image, (augment.pad,) * 4)
        height, width = image.shape[-2:]
        box = RandomCrop.get_params(padded, (height, width))
        return _mirrored(transforms.crop(padded, *box), augment.flip)

    def _is_small(self, image: Tensor) -> bool:
        return is_small(image, takes_rectangles=self.takes_rectangles)

    def _larger_size(self) -> ImageSize:
        """The student's size, or one of its shape that has all of the teacher's pixels where these are more."""
        sides, others = height_and_width(self.image_size), height_and_width(self.teacher_size or self.image_size)
        larger = max(Fraction(1), *(Fraction(other, side) for side, other in zip(sides, others, strict=True)))
        return size_of([round(larger * side) for side in sides])


def resized(images: Tensor, size: ImageSize, *, interpolation: str = "bilinear") -> Tensor:
    """(...,3,H,W) at another size, squeezed where that has another shape, antialiased; those of it as they are."""
    return _scaled(images, height_and_width(size), interpolation)


def covered(images: Tensor, size: ImageSize, *, interpolation: str = "bilinear") -> Tensor:
    """The centre of (...,3,H,W) at another size: all of images that have its shape; see `resized`."""
    return _centre(_scaled(images, covering(images.shape, size), interpolation), size)


def fitted(images: Tensor, size: ImageSize) -> Tensor:
    """The centre of (...,3,H,W) at another size, after images were scaled to cover 1.143 times that; see `resized`.

    Of squares: the shorter side becomes 1.143 times theirs. Images of the size itself stay as they are.
    """
    if images.shape[-2:] == height_and_width(size):
        return images
    share = crop_share(size)
    around = size_of([round(side / share) for side in height_and_width(size)])
    return _centre(_scaled(images, covering(images.shape, around), "bilinear"), size)


def crop_share(size: ImageSize) -> float:
    """Sides of the centre crop of `fitted`, as a share of what images are scaled to cover."""
    height, _ = height_and_width(size)
    return height / round(height * EVAL_CROP)


def _scaled(images: Tensor, sides: tuple[int, int], interpolation: str) -> Tensor:
    if images.shape[-2:] == sides:
        return images
    scaled: Tensor = transforms.resize(
        images, list(sides), interpolation=InterpolationMode(interpolation), antialias=True
    )
    return scaled


def _centre(images: Tensor, size: ImageSize) -> Tensor:
    if images.shape[-2:] == height_and_width(size):
        return images
    centre: Tensor = transforms.center_crop(images, list(height_and_width(size)))
    return centre


def _mirrored(image: Tensor, is_wanted: bool) -> Tensor:
    return image.flip(-1) if is_wanted and torch.rand(()) < 0.5 else image


def _as_pair(pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    return pictures[0], pictures[1] if len(pictures) > 1 else None


def first_samples(source: Source, most: int = 8) -> list[Tensor]:
    """The first few readable images; of cached ones one is enough."""
    images = images_in_memory(source)
    if images is not None:
        return [images[0]]
    found: list[Tensor] = []
    with globally_seeded(0):  # a data set's own transform may draw
        for i in range(min(most, len(source))):
            with suppress(BadImageError):
                found.append(source.image(i))
    return found
