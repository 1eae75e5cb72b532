"""Image and boxes together: scaled by the shorter side and mirrored, as a function of (seed, view, sample index)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from understudy.core.boxes import Boxes
from understudy.data.augment.config import Augment, CropFlip, NoAugment
from understudy.data.config import DataConfig
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed

__all__ = [
    "BoxRendering",
    "Shown",
    "box_augment_for",
    "box_rendering",
    "check_boxed",
    "common_canvas",
    "moved",
    "padded",
    "padded_size",
    "rendered",
    "scaled",
]

MULTIPLE = 32  # of which the sides of a padded batch are multiples: the largest stride of a backbone


@dataclass(frozen=True, slots=True)
class BoxRendering:
    """How an image with boxes is shown: at what size, and whether mirrored.

    The usual protocol of COCO: a shorter side drawn from 640, 672, ..., 800 in training and 800 in evaluation, the
    longer one at most 1333, mirrored half of the time.

    Raises:
        UserError: sides that cannot be.
    """

    shorter_sides: tuple[int, ...] | None = (640, 672, 704, 736, 768, 800)  # None: as images are, if not longer than
    longer_side: int = 1333  # this at most, in pixels
    flip: bool = True  # mirror left to right, with probability 1/2
    within: tuple[int, int] | None = None  # height and width that no image is shown larger than

    def __post_init__(self) -> None:
        sides = (*(self.shorter_sides or (1,)), self.longer_side)
        if self.shorter_sides == () or any(side < 1 for side in sides) or max(sides[:-1]) > self.longer_side:
            raise UserError(
                "shorter_sides and longer_side are pixels from 1 on, and no shorter side is longer than longer_side; "
                f"got {self.shorter_sides} and {self.longer_side}"
            )

    def drawn(self, size: tuple[int, int], *, seed: int, view: int, index: int) -> tuple[tuple[int, int], bool]:
        """Height and width at which an image of this size is shown in a view, and whether mirrored; read no pixel."""
        draw = hashed(seed, "boxes", view, index)
        sides = self.shorter_sides
        shorter = None if sides is None else sides[draw // 2 % len(sides)]
        return self._fitted(size, shorter), self.flip and draw % 2 == 1

    def whole(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which an image is evaluated: by the largest of the shorter sides."""
        return self._fitted(size, None if self.shorter_sides is None else max(self.shorter_sides))

    def every(self, size: tuple[int, int]) -> set[tuple[int, int]]:
        """Each height and width at which an image of this size may be shown in training."""
        return {self._fitted(size, shorter) for shorter in self.shorter_sides or (None,)}

    def _fitted(self, size: tuple[int, int], shorter: int | None) -> tuple[int, int]:
        factor = min(1.0 if shorter is None else shorter / min(size), self.longer_side / max(size))
        if self.within is not None:
            factor = min(factor, self.within[0] / size[0], self.within[1] / size[1])
        height, width = (max(1, round(side * factor)) for side in size)
        return height, width


def box_rendering(config: DataConfig) -> BoxRendering:
    """How the settings show images with boxes.

    Raises:
        UserError: sides that cannot be.
    """
    if config.shorter_sides is not None and config.shorter_side is not None:
        raise UserError("data.shorter_side and data.shorter_sides say the same of images with boxes; leave one out")
    augment = box_augment_for(config)
    return BoxRendering(
        shorter_sides=config.shorter_sides if config.shorter_side is None else (config.shorter_side,),
        longer_side=config.longer_side,
        flip=isinstance(augment, CropFlip) and augment.flip,
    )


def box_augment_for(config: DataConfig) -> Augment:
    """The settings' augmentation of images with boxes.

    Raises:
        UserError: one that does not move boxes.
    """
    mirrored = CropFlip(pad=0)
    if config.augment == "auto":
        return mirrored
    if isinstance(config.augment, NoAugment) or config.augment in (mirrored, CropFlip(pad=0, flip=False)):
        return config.augment
    raise UserError(
        f"data.augment: {config.augment.name} moves images alone, and these have boxes; leave it out (they are "
        "mirrored half of the time, and data.shorter_side scales them), or take none"
    )


def check_boxed(config: DataConfig) -> None:
    """Refuse settings of the data that are about images of one class each.

    Raises:
        UserError: naming them.
    """
    box_rendering(config)
    if config.image_size is not None:
        raise UserError(
            "data.image_size: images with boxes are shown whole; data.shorter_side, or shorter_sides to draw from, "
            "and data.longer_side say how large"
        )
    set_otherwise = {
        "per_class": config.per_class is not None,
        "unlabelled": config.unlabelled is not None,
        "sampling: balanced": config.sampling == "balanced",
        "repeats": config.repeats > 1,
        "copies": config.copies != "none",
        "mix": config.mix is not None,
        "cache": config.cache not in ("auto", False),
        "streaming": config.streaming,
    }
    wrong = [f"data.{name}" for name, is_set in set_otherwise.items() if is_set]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: of images with one class each, and these have boxes; leave it out")


class Shown(NamedTuple):
    """How one image is shown."""

    file: tuple[int, int]  # height and width that it has
    size: tuple[int, int]  # and that it gets
    mirrored: bool = False


def rendered(image: Tensor, boxes: Boxes, size: tuple[int, int], *, mirrored: bool = False) -> tuple[Tensor, Boxes]:
    """A (3,H,W) image and its boxes at another size, mirrored or not; areas stay those of the file."""
    shown = Shown((image.shape[1], image.shape[2]), size, mirrored)
    return scaled(image, shown), moved(boxes, [shown])


def scaled(image: Tensor, shown: Shown) -> Tensor:
    """A (3,H,W) image as it is shown."""
    if shown.file != shown.size:
        image = transforms.resize(image, list(shown.size), antialias=True)
    return image.flip(-1) if shown.mirrored else image


def moved(boxes: Boxes, shown: Sequence[Shown]) -> Boxes:
    """The boxes of B images, in pixels of the files, where the images show them; areas stay those of the files."""
    sizes = torch.tensor([one.size for one in shown])
    scale = torch.tensor([[new / old for new, old in zip(one.size, one.file, strict=True)] for one in shown])
    corners = boxes.boxes * scale[boxes.image][:, [1, 0, 1, 0]]
    if any(one.mirrored for one in shown):
        x1, y1, x2, y2 = corners.unbind(dim=1)
        width = sizes[boxes.image, 1]
        is_turned = torch.tensor([one.mirrored for one in shown])[boxes.image, None]
        corners = torch.where(is_turned, torch.stack([width - x2, y1, width - x1, y2], dim=1), corners)
    return replace(boxes, boxes=corners, sizes=sizes, scale=scale)


def padded_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Height and width that hold all of these, multiples of 32."""
    height, width = (-(-max(sides) // MULTIPLE) * MULTIPLE for sides in zip(*sizes, strict=True))
    return height, width


def common_canvas(sizes: Iterable[tuple[int, int]], rendering: BoxRendering) -> tuple[int, int] | None:
    """Height and width that every batch of these images is padded to; None where that hangs on who is in it.

    Args:
        sizes: height and width of every image, as it is stored.
        rendering: how they are shown in training.
    """
    found = {padded_size([shown]) for size in set(sizes) for shown in rendering.every(size)}
    return found.pop() if len(found) == 1 else None


def padded(images: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """(B,3,H,W) of images (3,h,w), which lie at the top left of zeros."""
    batch = images[0].new_zeros(len(images), images[0].shape[0], *size)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch
