"""Shapes on noise with masks or boxes, drawn by a seeded generator: data for dense tasks without a download."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from understudy.core.boxes import Boxes
from understudy.data.sources.boxed import ArrayBoxSource
from understudy.data.sources.found import Found, SplitName
from understudy.data.sources.masked import ArrayMaskedSource
from understudy.data.sources.readers import Reader
from understudy.utils.hashing import hashed

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["CLASSES", "drawn_shapes", "drawn_shapes_with_boxes"]

CLASSES = ("background", "disc", "square", "triangle")
HUES = torch.eye(3)  # that shapes lean towards, by class: a few images are enough to learn from
SIDE = 64  # pixels
GROUND = (0.25, 0.75)  # lowest and highest grey of the noise behind the shapes, which hides some of them
DARK = (0.1, 0.35)  # behind shapes that stand out: a network of a few steps finds them
SIZES: dict[SplitName, int] = {"train": 512, "val": 128}


def drawn_shapes(
    count: int, *, seed: int, side: int = SIDE, ground: tuple[float, float] = GROUND
) -> tuple[Tensor, Tensor]:
    """Images with one to three shapes on a background of noise, and their masks.

    Args:
        count: N.
        seed: of all draws.
        side: of the images, in pixels.
        ground: lowest and highest grey of the background, from 0 to 1.

    Returns:
        (N,3,side,side) uint8, and (N,side,side) uint8 class numbers: 0 the background, then as in CLASSES.
    """
    images, masks, _ = _drawn(count, seed=seed, side=side, ground=ground)
    return images, masks


def drawn_shapes_with_boxes(count: int, *, seed: int, side: int = SIDE) -> tuple[Tensor, Boxes]:
    """The same images, with a box around what is seen of each shape.

    Args:
        count: N.
        seed: of all draws.
        side: of the images, in pixels.

    Returns:
        (N,3,side,side) uint8, and the boxes of all N images; class 0 is the first of CLASSES after the background.
    """
    images, masks, objects = _drawn(count, seed=seed, side=side, ground=GROUND)
    return images, Boxes.packed([_boxes_of(*pair, side) for pair in zip(masks, objects, strict=True)])


def _boxes_of(mask: Tensor, objects: Tensor, side: int) -> Boxes:
    corners, labels, areas = [], [], []
    for number in torch.unique(objects).tolist():
        if number == 0:
            continue
        rows, columns = (objects == number).nonzero().unbind(dim=1)
        corners.append([int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1])
        labels.append(int(mask[rows[0], columns[0]]) - 1)
        areas.append(len(rows))
    return Boxes.of_image(
        torch.tensor(corners, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
        (side, side),
        area=torch.tensor(areas, dtype=torch.float32),
    )


def _drawn(count: int, *, seed: int, side: int, ground: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Images, masks of classes, and (N,side,side) the number of the shape that is seen at each pixel, from 1 on."""
    generator = torch.Generator().manual_seed(hashed(seed, "shapes"))

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    images, masks = torch.empty(count, 3, side, side), torch.zeros(count, side, side, dtype=torch.uint8)
    objects = torch.zeros_like(masks)
    rows, columns = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    for number in range(count):
        coarse = drawn(1, 3, 4, 4)
        smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0]
        image = (ground[1] - ground[0]) * smooth + ground[0]
        for shape in range(1 + int(drawn(1) * 3)):
            kind, radius = 1 + int(drawn(1) * 3), side * (0.15 + 0.1 * float(drawn(1)))
            y, x = (float(radius + (side - 2 * radius) * value) for value in drawn(2))
            inside = _inside(kind, rows - y, columns - x, radius, 2 * math.pi * float(drawn(1)))
            image[:, inside] = 0.6 * drawn(3, 1) + 0.4 * HUES[kind - 1][:, None]
            masks[number][inside] = kind
            objects[number][inside] = shape + 1
        images[number] = image + 0.1 * (drawn(3, side, side) - 0.5)
    return (255 * images.clamp(0, 1)).round().to(torch.uint8), masks, objects


def _inside(kind: int, rows: Tensor, columns: Tensor, radius: float, angle: float) -> Tensor:
    """(H,W) whether a place lies in a disc, a square or a triangle about the origin, turned by an angle."""
    if kind == 1:
        return rows.square() + columns.square() < radius**2
    sides, reach = (4, radius * math.sqrt(0.5)) if kind == 2 else (3, radius / 2)
    inside = torch.ones_like(rows, dtype=torch.bool)
    for number in range(sides):
        turn = angle + 2 * math.pi * number / sides
        inside &= rows * math.sin(turn) + columns * math.cos(turn) < reach
    return inside


class _Shapes(Reader, name="shapes"):
    """The name "shapes": 512 images to train on and 128 to validate on, the same ones each time."""

    asked = 0
    task = "segmentation"
    takes_names = True

    @classmethod
    def is_name(cls, root: str) -> bool:
        """Whether it says so."""
        return root == "shapes"

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """Drawn now."""
        splits = {split: ArrayMaskedSource(*drawn_shapes(count, seed=count)) for split, count in SIZES.items()}
        return Found("shapes", CLASSES, splits)


class _ShapesOnDark(Reader, name="shapes-on-dark"):
    """The name "shapes-on-dark": the same shapes before a background that hides none of them."""

    asked = 0
    task = "segmentation"
    takes_names = True

    @classmethod
    def is_name(cls, root: str) -> bool:
        """Whether it says so."""
        return root == "shapes-on-dark"

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """Drawn now."""
        splits = {
            split: ArrayMaskedSource(*drawn_shapes(count, seed=count, ground=DARK)) for split, count in SIZES.items()
        }
        return Found("shapes-on-dark", CLASSES, splits)


class _BoxesOfShapes(Reader, name="boxes-of-shapes"):
    """The name "boxes-of-shapes": the images of "shapes", with a box around each shape."""

    asked = 0
    task = "detection"
    takes_names = True

    @classmethod
    def is_name(cls, root: str) -> bool:
        """Whether it says so."""
        return root == "boxes-of-shapes"

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """Drawn now."""
        splits = {split: ArrayBoxSource(*drawn_shapes_with_boxes(count, seed=count)) for split, count in SIZES.items()}
        return Found("boxes-of-shapes", CLASSES[1:], splits)
