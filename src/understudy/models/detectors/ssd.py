"""SSD and SSDlite of torchvision: images of one size, and a softmax with a background for every anchor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, clip_boxes_to_image

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections, Proposals, Scored
from understudy.models.detectors.base import as_image_list
from understudy.models.detectors.one_stage import OneStage, checked_places

__all__ = ["SingleShot"]


class SingleShot(OneStage):
    """SSD: maps of falling size without a pyramid, and a head at every position of each.

    Liu et al., "SSD", ECCV 2016; SSDlite: Sandler et al., "MobileNetV2", CVPR 2018, as torchvision builds them. Batches
    are stretched to the network's own size (300 or 320 pixels a side), padding and all; its anchors are shares of the
    image, so boxes stay in pixels of the batch. Arguments as of `OneStage`; column 0 is the background.
    """

    background = 0

    def shown(self, images: Tensor) -> Tensor:
        """Images at the network's own size."""
        size: tuple[int, int] = self._network[0].transform.fixed_size[::-1]  # it says width and height
        if tuple(images.shape[2:]) == tuple(size):
            return images
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)

    def propose(self, maps: Mapping[str, Tensor], images: Tensor, boxes: Boxes) -> Proposals:
        """The anchors of objects, and as many others, which are background."""
        found = super().propose(maps, images, boxes)
        return Proposals(
            labels=torch.where(found.is_object, found.labels, self.num_classes),
            is_object=found.is_object,
            question=found.question,
            own=found.own,
        )

    def score(self, maps: Mapping[str, Tensor], proposals: Proposals) -> Scored:
        """The head's logits at the anchors in question, background last."""
        outputs = self.head([one.float() for one in maps.values()])
        logits = outputs["cls_logits"]  # (B, anchors, C + 1)
        places = checked_places(proposals.question, logits.shape[1])
        return Scored(logits=logits[..., [*self.columns, self.background]].flatten(0, 1)[places], own=outputs)

    def losses(self, proposals: Proposals, scored: Scored) -> dict[str, Tensor]:
        """Cross-entropy of objects and of the hardest others, three of each object, and smooth L1 of boxes."""
        targets, placed, matches = proposals.own
        outputs = {name: one.float() for name, one in scored.own.items()}
        found: dict[str, Tensor] = self._network[0].compute_loss(targets, outputs, placed, matches)
        return found

    def detections(self, maps: Mapping[str, Tensor], images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """Boxes after non-maximum suppression by class, the best first."""
        outputs = self.head([one.float() for one in maps.values()])
        listed = as_image_list(images, sizes)
        found = self._network[0].postprocess_detections(outputs, self._placed(maps, images), listed.image_sizes)
        return [self._by_class(one, outputs["cls_logits"].shape[2], cuts=sizes is not None) for one in found]

    def raw(self, maps: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes cut to the images, and probabilities."""
        outputs = self.head([one.float() for one in maps.values()])
        boxes = self._decoded(outputs["bbox_regression"], self._placed(maps, images[:1])[0])
        scores = outputs["cls_logits"].softmax(dim=2)[..., list(self.columns)]
        return clip_boxes_to_image(boxes, as_image_list(images[:1]).image_sizes[0]), scores

    def _split(self, anchors: Tensor, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """SSD has four anchors at a position of some levels and six at those of others."""
        counts = self.anchor_generator.num_anchors_per_location()
        sizes = [one.shape[2] * one.shape[3] * count for one, count in zip(maps.values(), counts, strict=True)]
        return list(torch.split(anchors, sizes))

    def _matched(self, maps: Mapping[str, Tensor], placed: list[Tensor], targets: list[dict[str, Any]]) -> list[Tensor]:
        matcher = self._network[0].proposal_matcher
        return [
            matcher(box_iou(target["boxes"], anchors))
            if len(target["boxes"])
            else torch.full((len(anchors),), -1, device=anchors.device)
            for anchors, target in zip(placed, targets, strict=True)
        ]
