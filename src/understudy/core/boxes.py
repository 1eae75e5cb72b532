"""Boxes around objects: what detection is trained and scored on, packed over the images of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["Boxes", "imitation_masks"]


@dataclass(frozen=True, slots=True)
class Boxes:
    """The G boxes of B images, one after the other, in the order of the images."""

    boxes: Tensor  # (G,4) x1, y1, x2, y2 in pixels of the image, float32 or wider
    labels: Tensor  # (G,) class numbers from 0, no background among them
    image: Tensor  # (G,) place of the box's image in the batch, from 0, not falling
    crowd: Tensor  # (G,) booleans: a region of many objects, scored as COCO does and not trained on
    area: Tensor  # (G,) of the object in square pixels, which decides small, medium, large; COCO's is its mask's
    num_images: int  # B, since an image may have no box

    @classmethod
    def none(cls, num_images: int = 1) -> Boxes:
        """No boxes on so many images."""
        labels = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, 4), labels, labels.clone(), labels.bool(), torch.zeros(0), num_images)

    @classmethod
    def packed(cls, parts: Iterable[Boxes]) -> Boxes:
        """Those of several batches, or of single images, as of one batch."""
        parts = list(parts)
        starts = [sum(part.num_images for part in parts[:number]) for number in range(len(parts))]
        if not parts:
            return cls.none(0)
        return cls(
            boxes=torch.cat([part.boxes for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            image=torch.cat([part.image + start for part, start in zip(parts, starts, strict=True)]),
            crowd=torch.cat([part.crowd for part in parts]),
            area=torch.cat([part.area for part in parts]),
            num_images=starts[-1] + parts[-1].num_images,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, images: slice) -> Boxes:
        """Those of some consecutive images, numbered from 0 again."""
        start, stop, step = images.indices(self.num_images)
        assert step == 1, "images of a batch are taken one after the other"
        taken = self.where((self.image >= start) & (self.image < stop))
        return replace(taken, image=taken.image - start, num_images=max(0, stop - start))

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Boxes:
        """The same on `device`."""
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in _TENSORS}
        return replace(self, **moved)

    def where(self, is_kept: Tensor) -> Boxes:
        """Some of the boxes, (G,) booleans, on the same images."""
        return replace(self, **{name: getattr(self, name)[is_kept] for name in _TENSORS})

    def to_learn(self) -> Boxes:
        """Those that are trained on: all but the crowds."""
        return self.where(~self.crowd)

    def each(self) -> list[Boxes]:
        """One Boxes for each image."""
        return [self[number : number + 1] for number in range(self.num_images)]


_TENSORS = tuple(field.name for field in fields(Boxes) if field.name != "num_images")


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
    masks = []
    for placed, (height, width) in zip(anchors, sizes, strict=True):
        overlaps = box_iou(boxes.boxes.to(placed.dtype), placed)  # (G, H * W * A)
        best = overlaps.amax(dim=1, keepdim=True)
        is_near = (overlaps > threshold * best).reshape(len(boxes), height * width, -1).any(dim=2)
        marks = is_near.new_zeros((boxes.num_images, height * width), dtype=torch.int64)
        marks.index_add_(0, boxes.image, is_near.long())
        masks.append((marks > 0).reshape(boxes.num_images, height, width))
    return masks
