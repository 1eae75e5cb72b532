"""Images with boxes around objects: how they are kept, and what is put right or refused when they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from understudy.core.boxes import Boxes, BoxesByImage
from understudy.data.sources.base import FileSource, Source, holders, stored_at
from understudy.data.sources.decoding import BadImageError, printable
from understudy.utils.errors import UserError
from understudy.utils.text import listed, plural

__all__ = [
    "MOST_SIDE",
    "ArrayBoxSource",
    "BoxCounts",
    "BoxSource",
    "Boxed",
    "BoxedImage",
    "box_source",
    "boxes_of",
    "boxes_of_image",
    "checked_size",
    "has_boxes",
    "identity_of",
    "is_number",
    "refuse_missing",
    "refuse_outside_paths",
    "size_of_boxed",
]

MOST_NAMED = 10
MOST_SIDE = 1_000_000  # pixels of an image
MOST = 1e30  # of a coordinate; squares of larger ones are no float32
SLACK = 1.0  # pixels that a box may reach beyond its image by rounding, without being counted


@runtime_checkable
class Boxed(Protocol):
    """A source that knows the boxes on each of its images."""

    def target(self, i: int) -> Boxes:
        """The boxes of image i, crowds among them."""

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image i, without decoding it."""


@dataclass(frozen=True, slots=True)
class BoxedImage:
    """One image as an annotation file has it: n boxes of any kind, not put right yet."""

    path: str  # below the root
    size: tuple[int, int]  # height, width
    boxes: Sequence[Sequence[float]] = ()  # (n,4) x1, y1, x2, y2 in pixels
    labels: Sequence[int] = ()  # (n,)
    crowd: Sequence[bool] | None = None  # (n,); None: none of them
    areas: Sequence[float] | None = None  # (n,) of the objects; None: the boxes'


@dataclass
class BoxCounts:
    """What was put right while boxes were read."""

    cut: int = 0  # reached beyond their image
    outside: int = 0  # nothing of them is in it
    flat: int = 0  # no width or no height
    crowds: int = 0
    boxes: int = 0  # that are left, crowds among them
    images: int = 0
    empty: int = 0  # images without a box

    def said(self, split: str) -> list[str]:
        """What a person should know, a line for each kind."""
        lines = [f"{split}: {plural(self.boxes, 'box', 'boxes')} on {plural(self.images, 'image')}"]
        if self.empty:
            lines[0] += f", {self.empty} of them without any"
        told = (
            ("not trained on, but evaluated with", self.crowds, ("crowd", "crowds"), ""),
            ("cut to the image", self.cut, ("box", "boxes"), " beyond it"),
            ("left out", self.outside, ("box", "boxes"), " outside the image"),
            ("left out", self.flat, ("box", "boxes"), " without width or height"),
        )
        lines += [f"{split}: {what}: {plural(count, *one)}{where}" for what, count, one, where in told if count]
        return lines


class BoxSource(FileSource):
    """Image files below one folder, with the boxes on them.

    Args:
        root: the folder.
        paths: below it.
        boxes: of all N images, in their order.
    """

    def __init__(self, root: Path, paths: Sequence[str], boxes: Boxes) -> None:
        super().__init__(root, paths, torch.zeros(len(paths), dtype=torch.int64))  # no image has a class of its own
        self.boxes = boxes
        self._by_image = BoxesByImage(boxes)

    @property
    def sizes(self) -> Tensor:
        """(N,2) height and width of each image, known without decoding it."""
        return self.boxes.sizes

    def target(self, i: int) -> Boxes:
        """The boxes of image i, crowds among them."""
        return self._by_image.target(i)

    def size(self, i: int) -> tuple[int, int]:
        """As the annotations have it."""
        return self._by_image.size(i)

    def identity(self, i: int) -> bytes:
        """The file's name and size, and its boxes."""
        return super().identity(i) + identity_of(self.target(i))

    def image(self, i: int) -> Tensor:
        """Read and decoded now.

        Raises:
            BadImageError: it cannot be read, or has another size than its boxes are for.
        """
        return checked_size(super().image(i), self.size(i), self.name(i))


class ArrayBoxSource:
    """Equal-sized images in memory, and the boxes on them.

    Args:
        images: (N,3,H,W) uint8.
        boxes: of all N images, in their order.
    """

    def __init__(self, images: Tensor, boxes: Boxes) -> None:
        self.images = images
        self.boxes = boxes
        self._by_image = BoxesByImage(boxes)
        self.labels = torch.zeros(len(images), dtype=torch.int64)  # no image has a class of its own

    def __len__(self) -> int:
        return len(self.images)

    def image(self, i: int) -> Tensor:
        """A view of image i."""
        return self.images[i]

    def target(self, i: int) -> Boxes:
        """The boxes of image i."""
        return self._by_image.target(i)

    def size(self, i: int) -> tuple[int, int]:
        """The same for all."""
        height, width = self.images.shape[2:]
        return height, width

    def name(self, i: int) -> str:
        """Its number."""
        return f"image {i}"

    def identity(self, i: int) -> bytes:
        """Its pixels and boxes."""
        return bytes(self.images[i].numpy().tobytes()) + identity_of(self.target(i))


def checked_size(image: Tensor, size: tuple[int, int], name: str) -> Tensor:
    """The image.

    Raises:
        BadImageError: it has another size than its boxes are for.
    """
    height, width = size
    if tuple(image.shape[1:]) != (height, width):
        raise BadImageError(
            f"{name}: the image has {image.shape[2]} x {image.shape[1]} pixels, and its boxes are for "
            f"{width} x {height}"
        )
    return image


def box_source(root: Path, images: Sequence[BoxedImage]) -> tuple[BoxSource, BoxCounts]:
    """The images with their boxes, put right: cut to their image, left out where nothing is left of them.

    Args:
        root: of the images' paths.
        images: as they were read.
    """
    boxes, counts = boxes_of(images)
    return BoxSource(root, [image.path for image in images], boxes), counts


def boxes_of(images: Sequence[BoxedImage]) -> tuple[Boxes, BoxCounts]:
    """The boxes of images as they were read, put right as `box_source` says."""
    counts = BoxCounts(images=len(images))
    sizes = torch.tensor([image.size for image in images]).reshape(-1, 2)
    place = [number for number, image in enumerate(images) for _ in image.boxes]
    corners = torch.tensor([box for image in images for box in image.boxes], dtype=torch.float64).reshape(-1, 4)
    labels = torch.tensor([label for image in images for label in image.labels], dtype=torch.int64)
    crowd = torch.tensor([is_crowd for image in images for is_crowd in image.crowd or [False] * len(image.boxes)])
    areas = torch.tensor([area for image in images for area in image.areas or [torch.nan] * len(image.boxes)])
    where = torch.tensor(place, dtype=torch.int64)
    limits = sizes[where][:, [1, 0, 1, 0]].double()
    cut = corners.clamp(min=0).minimum(limits)
    is_flat = (corners[:, 2:] <= corners[:, :2]).any(dim=1)
    is_outside = (cut[:, 2:] <= cut[:, :2]).any(dim=1) & ~is_flat
    is_cut = ((cut - corners).abs() > SLACK).any(dim=1) & ~is_flat & ~is_outside
    kept = ~is_flat & ~is_outside
    areas = torch.where(areas.isnan(), (cut[:, 2:] - cut[:, :2]).prod(dim=1).float(), areas.float())
    boxes = Boxes(
        boxes=cut.float(),
        labels=labels,
        image=where,
        crowd=crowd.bool(),
        area=areas,
        sizes=sizes,
        scale=torch.ones(len(images), 2),
    ).where(kept)
    counts.cut, counts.outside, counts.flat = int(is_cut.sum()), int(is_outside.sum()), int(is_flat.sum())
    counts.crowds, counts.boxes = int(boxes.crowd.sum()), len(boxes.labels)
    counts.empty = len(images) - len(set(boxes.image.tolist()))
    return boxes, counts


def refuse_missing(root: Path, paths: Iterable[str], *, what: str) -> None:
    """Refuse annotations of images that are not there.

    Raises:
        UserError: naming some.
    """
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        shown = listed([printable(path) for path in missing], MOST_NAMED)
        raise UserError(
            f"{what} names {plural(len(missing), 'image that is', 'images that are')} not below {root}: {shown}; "
            "put the images there, or leave these out of the file"
        )


def refuse_outside_paths(path: str, *, what: str) -> str:
    """The path, if it stays below its folder.

    Raises:
        UserError: it is absolute, or climbs out of it.
    """
    parts = PurePosixPath(path.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or ":" in parts.parts[0]:
        raise UserError(f"{what} names an image {printable(path)!r}, which is not a path below the folder of images")
    return str(parts)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a file can be a coordinate: neither true nor false, and within what a float holds."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) < MOST and math.isfinite(value)


def has_boxes(source: Source) -> bool:
    """Whether the boxes on every image of a source are known."""
    return all(isinstance(holder, Boxed) for holder in holders(source))


def boxes_of_image(source: Source, i: int) -> Boxes:
    """The boxes of image i, from whoever holds it."""
    holder, place = stored_at(source, i)
    assert isinstance(holder, Boxed)
    return holder.target(place)


def size_of_boxed(source: Source, i: int) -> tuple[int, int]:
    """Height and width of image i of a source with boxes, without decoding it."""
    holder, place = stored_at(source, i)
    assert isinstance(holder, Boxed)
    return holder.size(place)


def identity_of(boxes: Boxes) -> bytes:
    """What tells these boxes from others."""
    return f"{boxes.boxes.tolist()} {boxes.labels.tolist()} {boxes.crowd.tolist()}\n".encode()
