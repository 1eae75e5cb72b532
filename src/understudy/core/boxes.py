"""Boxes around objects: what detection is trained and scored on, packed over the images of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import torch
from torch import Tensor

__all__ = ["Boxes", "BoxesByImage", "imitation_masks"]


@dataclass(frozen=True, slots=True)
class Boxes:
    """The G boxes of B images, one after the other, in the order of the images."""

    boxes: Tensor  # (G,4) x1, y1, x2, y2 in pixels of the image, float32 or wider
    labels: Tensor  # (G,) class numbers from 0, no background among them
    image: Tensor  # (G,) place of the box's image in the batch, from 0, not falling
    crowd: Tensor  # (G,) booleans: a region of many objects, scored as COCO does and not trained on
    area: Tensor  # (G,) of the object in square pixels of the file, which decides small, medium, large; or of its mask
    sizes: Tensor  # (B,2) height and width of each image, which in a batch may be padded beyond
    scale: Tensor  # (B,2) rows and columns of the image for one of its file

    @classmethod
    def of_image(
        cls,
        boxes: Tensor,
        labels: Tensor,
        size: tuple[int, int],
        *,
        crowd: Tensor | None = None,
        area: Tensor | None = None,
    ) -> Boxes:
        """The boxes of one image, (n,4) and (n,); without crowds and with areas of the boxes where nobody says."""
        boxes = boxes.reshape(-1, 4)
        return cls(
            boxes=boxes,
            labels=labels,
            image=torch.zeros_like(labels),
            crowd=torch.zeros_like(labels, dtype=torch.bool) if crowd is None else crowd,
            area=(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) if area is None else area,
            sizes=torch.tensor([size]),
            scale=torch.ones(1, 2),
        )

    @classmethod
    def none(cls, size: tuple[int, int]) -> Boxes:
        """An image of this height and width without a box."""
        return cls.of_image(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), size)

    @classmethod
    def packed(cls, parts: Sequence[Boxes]) -> Boxes:
        """Those of several batches, or of single images, as of one batch.

        Raises:
            ValueError: there are none.
        """
        starts = [0, *accumulate(part.num_images for part in parts)]
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS if name != "image"}
        image = torch.cat([part.image + start for part, start in zip(parts, starts[:-1], strict=True)])
        return cls(image=image, **joined)

    @property
    def num_images(self) -> int:
        """B, images without a box among them."""
        return len(self.sizes)

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, images: slice) -> Boxes:
        """Those of some consecutive images, numbered from 0 again."""
        start, stop, step = images.indices(self.num_images)
        assert step == 1, "images of a batch are taken one after the other"
        bounds = torch.searchsorted(self.image, torch.tensor([start, max(start, stop)], device=self.image.device))
        first, last = bounds.tolist()
        taken = {name: getattr(self, name)[first:last] for name in _OF_BOXES}
        of_images = {name: getattr(self, name)[start:stop] for name in _OF_IMAGES}
        return replace(self, **{**taken, **of_images, "image": taken["image"] - start})

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Boxes:
        """The same on `device`."""
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=non_blocking) for name in _TENSORS})

    def where(self, is_kept: Tensor) -> Boxes:
        """Some of the boxes, (G,) booleans or (n,) places in order, on the same images."""
        return replace(self, **{name: getattr(self, name)[is_kept] for name in _OF_BOXES})

    def with_boxes(self, boxes: Tensor) -> Boxes:
        """The same objects with other corners (G,4)."""
        return replace(self, boxes=boxes)

    def to_learn(self) -> Boxes:
        """Those that are trained on: all but the crowds."""
        return self.where(~self.crowd)

    def each(self) -> list[Boxes]:
        """One Boxes for each image."""
        return [self[number : number + 1] for number in range(self.num_images)]

    def in_files(self, boxes: Tensor, image: int) -> Tensor:
        """(n,4) boxes in pixels of an image, in pixels of its file."""
        rows, columns = self.scale[image].to(boxes.dtype).unbind()
        return boxes / torch.stack([columns, rows, columns, rows]).to(boxes.device)


_OF_IMAGES = ("sizes", "scale")
_TENSORS = tuple(field.name for field in fields(Boxes))
_OF_BOXES = tuple(name for name in _TENSORS if name not in _OF_IMAGES)


class BoxesByImage:
    """The boxes and the sizes of N images, those of one of them found at once.

    Args:
        boxes: of all images, in their order.
    """

    def __init__(self, boxes: Boxes) -> None:
        self._boxes = boxes
        self._first = torch.searchsorted(boxes.image, torch.arange(len(boxes) + 1))  # (N+1,) of each image

    def target(self, i: int) -> Boxes:
        """The boxes of image i, crowds among them."""
        every, here, place = self._boxes, slice(*self._first[i : i + 2].tolist()), slice(i, i + 1)
        return Boxes(
            boxes=every.boxes[here],
            labels=every.labels[here],
            image=every.image[here] - i,
            crowd=every.crowd[here],
            area=every.area[here],
            sizes=every.sizes[place],
            scale=every.scale[place],
        )

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of image i."""
        height, width = self._boxes.sizes[i].tolist()
        return height, width


def imitation_masks(
    boxes: Boxes, anchors: Sequence[Tensor], sizes: Sequence[tuple[int, int]], *, threshold: float = 0.5
) -> list[Tensor]:
    """Where on each level of a pyramid an anchor is near an object: the places that FGFI imitates.

    Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", CVPR 2019, section 3.2, level by
    level: an anchor counts for a box where their overlap exceeds threshold times the best overlap of any anchor of
    the same level with that box. So every box marks something on every level that any of its anchors touches. The
    authors released code for one level alone; the rule by level is that of others (LutingWang/todd).

    Args:
        boxes: of B images.
        anchors: by level, (H * W * A, 4) x1, y1, x2, y2 in pixels, position by position.
        sizes: by level, H and W of its map.
        threshold: the paper's psi.

    Returns:
        By level, (B, H, W) booleans.
    """
    from torchvision.ops import box_iou  # here, since whatever reads a batch imports this file

    masks = []
    for placed, (height, width) in zip(anchors, sizes, strict=True):
        overlaps = box_iou(boxes.boxes.to(placed.dtype), placed)  # (G, H * W * A)
        best = overlaps.amax(dim=1, keepdim=True)
        is_near = (overlaps > threshold * best).reshape(len(overlaps), height * width, -1).any(dim=2)
        marks = is_near.new_zeros((boxes.num_images, height * width), dtype=torch.int64)
        marks.index_add_(0, boxes.image, is_near.long())
        masks.append((marks > 0).reshape(boxes.num_images, height, width))
    return masks
