"""Two-stage detectors: torchvision's Faster R-CNN, under its own state_dict keys, with any backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, roi_align
from torchvision.ops.poolers import _setup_scales

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections, OtherFamilyError, Proposals, Scored
from understudy.models.detectors.base import Detector, RawSifting, as_image_list, as_targets, split_by_level

__all__ = ["Rois", "TwoStage"]

NARROWEST = 1e-2  # pixels, of the boxes that torchvision keeps


class Rois(NamedTuple):
    """Boxes that a head is asked about."""

    boxes: tuple[Tensor, ...]  # by image, (m,4) x1, y1, x2, y2 in pixels
    padded_to: tuple[int, int]  # height and width of the batch that they are in


class TwoStage(Detector):
    """Faster R-CNN, or Mask R-CNN whose boxes alone are trained.

    Ren et al., "Faster R-CNN", NeurIPS 2015, as torchvision builds it: a region proposal network over the pyramid,
    sampled proposals with the labelled boxes among them, a head on what is pooled from each.

    Args:
        network: of torchvision; its own resizing and normalisation are left out.
        num_classes: C of the data.
        columns: which column of the logits is class c; None: 1..C behind the background, column 0. torchvision's
            weights for COCO have 91 columns, of which eleven belong to no class.
    """

    background = 0
    picks_rows = True

    def __init__(self, network: GeneralizedRCNN, num_classes: int, *, columns: Sequence[int] | None = None) -> None:
        with torch.no_grad():
            mode = network.training
            levels = network.eval().backbone(torch.zeros(1, 3, 64, 64, device=next(network.parameters()).device))
            network.train(mode)
        super().__init__(num_classes, columns, 1 if isinstance(levels, Tensor) else len(levels))
        self.backbone, self.rpn, self.roi_heads = network.backbone, network.rpn, network.roi_heads
        heads = self.roi_heads
        self.sifting = RawSifting(heads.score_thresh, heads.detections_per_img, heads.nms_thresh)
        names = heads.box_roi_pool.featmap_names
        keys = names[:1] if isinstance(levels, Tensor) else list(levels)
        pooled = [(name, place) for place, name in enumerate(keys) if name in names]  # others only propose
        self._pooled_levels = pooled or list(zip(names, range(len(keys)), strict=False))

    def levels(self, images: Tensor) -> Sequence[Tensor]:
        """The maps of the feature pyramid; one map where the backbone has none."""
        maps = self.backbone(images)
        return [maps] if isinstance(maps, Tensor) else list(maps.values())

    def anchors(self, maps: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
        """By level, those of the region proposal network."""
        placed = self.rpn.anchor_generator(as_image_list(images[:1]), [one[:1] for one in maps.values()])
        return split_by_level(placed[0], maps)

    def propose(self, maps: Mapping[str, Tensor], images: Tensor, boxes: Boxes) -> Proposals:
        """Sampled proposals, as many for each image, a quarter of them of objects where there are so many."""
        listed, targets = as_image_list(images, boxes.sizes), as_targets(boxes, self.columns)
        maps = {name: one.float() for name, one in maps.items()}
        found, losses = self.rpn(listed, maps, targets)
        rois, _, labels, moves = self.roi_heads.select_training_samples(found, targets)
        classes = self._classes(torch.cat(labels), max(self.columns) + 1)
        return Proposals(
            labels=classes,
            is_object=classes < self.num_classes,
            question=Rois(tuple(rois), as_image_list(images).image_sizes[0]),
            own=torch.cat(list(moves)),
            losses=losses,
        )

    def score(self, maps: Mapping[str, Tensor], proposals: Proposals) -> Scored:
        """The box head, on what is pooled from these maps."""
        asked: Any = proposals.question
        if not isinstance(asked, Rois):
            raise OtherFamilyError(
                "a two-stage detector answers about the boxes that another one proposes, and the student is of another "
                "family; take a teacher of the student's family, or methods on maps alone"
            )
        logits, deltas = self._head(maps, list(asked.boxes), asked.padded_to)
        return Scored(logits=logits[:, [*self.columns, self.background]], own=(logits, deltas))

    def losses(self, proposals: Proposals, scored: Scored) -> dict[str, Tensor]:
        """Cross-entropy of the proposals' classes, smooth L1 of their boxes, and the losses of proposing."""
        table = torch.tensor([*self.columns, self.background], device=proposals.labels.device)
        logits, deltas = scored.own
        of_class, of_box = fastrcnn_loss(logits.float(), deltas.float(), [table[proposals.labels]], [proposals.own])
        return {"classifier": of_class, "box": of_box, **proposals.losses}

    def detections(self, maps: Mapping[str, Tensor], images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """Boxes after non-maximum suppression by class, the best first."""
        listed = as_image_list(images, sizes)
        maps = {name: one.float() for name, one in maps.items()}
        proposals, _ = self.rpn(listed, maps)
        logits, deltas = self._head(maps, proposals, as_image_list(images).image_sizes[0])
        found = self.roi_heads.postprocess_detections(logits.float(), deltas.float(), proposals, listed.image_sizes)
        detections = []
        for boxes, scores, labels in zip(*found, strict=True):
            classes = self._classes(labels, logits.shape[1])
            is_class = classes < self.num_classes
            detections.append(Detections(boxes[is_class], scores[is_class], classes[is_class]))
        return detections

    def raw(self, maps: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,A,C,4) boxes of each class, and (B,A,C) probabilities, of as many proposals as the images' size allows.

        Proposals are the surest anchors of each level, as many as `detections` begins with; it suppresses those that
        overlap before the head looks at them, here the head looks at all of them. What is no box has probability 0.
        """
        maps = {name: one.float() for name, one in maps.items()}
        proposals, is_box = self._surest_anchors(maps, images)
        by_place = list(maps.values())
        used = [by_place[place] for _, place in self._pooled_levels]
        pooled = _pooled(self.roi_heads.box_roi_pool, used, proposals, images)
        logits, moves = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        boxes = self.roi_heads.box_coder.decode_single(moves, proposals.flatten(0, 1))
        boxes = boxes.reshape(*proposals.shape[:2], -1, 4)[:, :, list(self.columns)]
        boxes = clip_boxes_to_image(boxes, as_image_list(images[:1]).image_sizes[0])
        scores = logits.softmax(dim=1).reshape(*proposals.shape[:2], -1)[..., list(self.columns)]
        is_box = is_box[..., None] & (boxes[..., 2:] - boxes[..., :2] >= NARROWEST).all(dim=-1)
        return boxes, scores * is_box

    def _surest_anchors(self, maps: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,P,4) proposals before suppression, level after level, and (B,P) which of them are kept otherwise."""
        anchors = torch.cat(self.anchors(maps, images))
        sure, moves = self.rpn.head(list(maps.values()))
        places = [one[0].numel() for one in sure]
        logits, moves = concat_box_prediction_layers(sure, moves)
        boxes = self.rpn.box_coder.decode_single(moves, anchors.repeat(images.shape[0], 1)).reshape(-1, sum(places), 4)
        logits = logits.reshape(-1, sum(places))
        chosen, first = [], 0
        for one, count in zip(logits.split(places, dim=1), places, strict=True):
            chosen.append(one.topk(min(self.rpn.pre_nms_top_n(), count), dim=1).indices + first)
            first += count
        order = torch.cat(chosen, dim=1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        boxes = clip_boxes_to_image(boxes, as_image_list(images[:1]).image_sizes[0])
        is_wide = (boxes[..., 2:] - boxes[..., :2] >= self.rpn.min_size).all(dim=-1)
        return boxes, is_wide & (logits.gather(1, order).sigmoid() >= self.rpn.score_thresh)

    def _head(
        self, maps: Mapping[str, Tensor], rois: list[Tensor], padded_to: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        # torchvision reads the scales of the levels off the first batch and keeps them. It divides by the images' own
        # size, which is wrong where they are much smaller than the batch: small ones, or those of one process.
        by_place = list(maps.values())
        named = {name: by_place[place].float() for name, place in self._pooled_levels}
        pooled = self.roi_heads.box_roi_pool(named, rois, [padded_to])
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))
        return logits, deltas

    def _classes(self, labels: Tensor, num_columns: int) -> Tensor:
        """Class of the data, or C for the background and for columns of no class, of labels by column."""
        table = torch.full((num_columns,), self.num_classes, dtype=torch.int64, device=labels.device)
        table[list(self.columns)] = torch.arange(self.num_classes, device=labels.device)
        return table[labels]


def _pooled(pool: MultiScaleRoIAlign, used: list[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
    """(B*P,D,h,w) of (B,P,4) boxes, as `pool` does; every level is looked at, so that no shape depends on values."""
    size = as_image_list(images[:1]).image_sizes[0]
    scales, level_of = _setup_scales(used, [size], pool.canonical_scale, pool.canonical_level)
    number = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)[:, None, None]
    rois = torch.cat([number.expand(-1, boxes.shape[1], 1), boxes], dim=2).flatten(0, 1)
    pooled: list[Tensor] = [
        roi_align(one, rois, pool.output_size, scale, pool.sampling_ratio)
        for one, scale in zip(used, scales, strict=True)
    ]
    if len(pooled) == 1:
        return pooled[0]
    levels, found = level_of([boxes.flatten(0, 1)])[:, None, None, None], pooled[0]
    for level, one in enumerate(pooled[1:], start=1):
        found = torch.where(levels == level, one, found)
    return found
