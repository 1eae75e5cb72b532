"""Where objects are on the levels of a pyramid: the masks of FGFI, made only where a method asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from understudy.core.boxes import Boxes, imitation_masks

__all__ = ["MaskKind", "ObjectMasks"]

MaskKind = Literal["anchors", "boxes"]


class ObjectMasks(Mapping[str, Tensor]):
    """(B,h,w) booleans by level, "weights.TAP" for each level that is tapped, made when the first is asked for.

    Args:
        kind: where an anchor is near a box (`imitation_masks`), or in a box.
        anchors: the detector's by level; asked where they are wanted.
        maps: by level, fine ones first.
        images: (B,3,H,W) that they are of.
        boxes: on them.
        taps: of the student; those that are no level have no mask.
    """

    def __init__(
        self,
        kind: MaskKind,
        anchors: Callable[[], list[Tensor]],
        maps: Mapping[str, Tensor],
        images: Tensor,
        boxes: Boxes,
        taps: Iterable[str],
    ) -> None:
        self._kind, self._anchors, self._boxes = kind, anchors, boxes.to_learn()
        self._sizes = [(one.shape[2], one.shape[3]) for one in maps.values()]
        self._images = images
        levels = {f"stages.{place}": place for place in range(len(maps))}
        levels |= {f"output.{name}": place for place, name in enumerate(maps)}
        self._levels = {f"weights.{tap}": levels[tap] for tap in taps if tap in levels}
        self._made: list[Tensor] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._levels)

    def __len__(self) -> int:
        return len(self._levels)

    def __getitem__(self, name: str) -> Tensor:
        level = self._levels[name]
        if self._made is None:
            if self._kind == "anchors":
                self._made = imitation_masks(self._boxes, self._anchors(), self._sizes)
            else:
                self._made = [_inside(self._boxes, self._images, size) for size in self._sizes]
        return self._made[level]


def _inside(boxes: Boxes, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,h,w) whether the middle of a position lies in a box."""
    height, width = size
    rows = (torch.arange(height, device=images.device) + 0.5) * images.shape[2] / height
    columns = (torch.arange(width, device=images.device) + 0.5) * images.shape[3] / width
    x1, y1, x2, y2 = boxes.boxes[:, :, None].unbind(dim=1)  # (G,1) each
    within = ((rows >= y1) & (rows < y2))[:, :, None] & ((columns >= x1) & (columns < x2))[:, None]  # (G,h,w)
    counts = within.new_zeros((boxes.num_images, height, width), dtype=torch.int64)
    return counts.index_add_(0, boxes.image, within.long()) > 0
