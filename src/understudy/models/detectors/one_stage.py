"""One-stage detectors: torchvision's RetinaNet and FCOS, under their own state_dict keys, with any backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections, OtherFamilyError, Proposals, Scored
from understudy.models.detectors.base import Detector, RawSifting, as_image_list, as_targets, split_by_level

__all__ = ["AnchorPlaces", "OneStage", "checked_places"]


class AnchorPlaces(NamedTuple):
    """Which anchors of a batch are rows: those of objects, and as many others."""

    places: Tensor  # (M,) numbers among all anchors of all images
    num_anchors: int  # of an image


class OneStage(Detector):
    """RetinaNet or FCOS: a head that looks at every position of every level, and a sigmoid for each class.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; Tian et al., "FCOS", ICCV 2019, as torchvision
    builds them. Their rows are the anchors that are matched with an object, and as many others drawn at random.

    Args:
        network: of torchvision; its own resizing and normalisation are left out.
        num_classes: C of the data.
        columns: which column of the logits is class c; None: 0..C-1. torchvision's weights for COCO have 91 columns,
            of which eleven belong to no class.
    """

    background: int | None = None

    def __init__(
        self, network: RetinaNet | FCOS | SSD, num_classes: int, *, columns: Sequence[int] | None = None
    ) -> None:
        with torch.no_grad():
            mode = network.training
            size = network.transform.fixed_size or (64, 64)
            levels = network.eval().backbone(torch.zeros(1, 3, *size, device=next(network.parameters()).device))
            network.train(mode)
        super().__init__(num_classes, columns, 1 if isinstance(levels, Tensor) else len(levels))
        self.backbone, self.head = network.backbone, network.head
        self.anchor_generator = network.anchor_generator
        self.sifting = RawSifting(network.score_thresh, network.detections_per_img, network.nms_thresh)
        self._network = (network,)  # in a tuple, so that its parts are not parts of this one twice

    def levels(self, images: Tensor) -> Sequence[Tensor]:
        """The maps of the feature pyramid; one map where the backbone has none."""
        maps = self.backbone(images)
        return [maps] if isinstance(maps, Tensor) else list(maps.values())

    def anchors(self, maps: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
        """By level, those that the head's answers are about."""
        return self._split(self._placed(maps, images[:1])[0], maps)

    def propose(self, maps: Mapping[str, Tensor], images: Tensor, boxes: Boxes) -> Proposals:
        """The anchors of objects, and as many others."""
        targets = as_targets(boxes, self.columns)
        placed = self._placed(maps, images)
        matches = torch.stack(self._matched(maps, placed, targets))  # (B, anchors), box or less than 0
        is_object = (matches >= 0).flatten()
        objects, others = is_object.nonzero().flatten(), (~is_object).nonzero().flatten()
        count = max(1, len(objects))
        drawn = others[torch.randperm(len(others), device=others.device)[:count]]
        places = torch.cat([objects, drawn])
        starts = torch.tensor([0, *torch.bincount(boxes.to_learn().image, minlength=len(images)).cumsum(0).tolist()])
        first = starts[:-1].to(places.device)[objects // matches.shape[1]]
        classes = boxes.to_learn().labels[first + matches.flatten()[objects]]
        return Proposals(
            labels=torch.cat([classes, torch.full_like(drawn, -1)]),
            is_object=torch.cat([torch.ones_like(objects), torch.zeros_like(drawn)]).bool(),
            question=AnchorPlaces(places, matches.shape[1]),
            own=(targets, placed, list(matches)),
        )

    def score(self, maps: Mapping[str, Tensor], proposals: Proposals) -> Scored:
        """The head's logits at the anchors in question, and of all by level."""
        outputs = self.head([one.float() for one in maps.values()])
        logits = outputs["cls_logits"]  # (B, anchors, K)
        places = checked_places(proposals.question, logits.shape[1])
        by_class = logits[..., list(self.columns)]
        return Scored(
            logits=by_class.flatten(0, 1)[places],
            own=outputs,
            levels=_levels(by_class, maps),
            activation="sigmoid",
        )

    def losses(self, proposals: Proposals, scored: Scored) -> dict[str, Tensor]:
        """Focal loss of the classes and the family's losses of boxes, of all anchors."""
        targets, placed, matches = proposals.own
        outputs = {name: one.float() for name, one in scored.own.items()}
        found: dict[str, Tensor] = self.head.compute_loss(targets, outputs, placed, matches)
        return found

    def detections(self, maps: Mapping[str, Tensor], images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """Boxes after non-maximum suppression by class, the best first."""
        outputs = self.head([one.float() for one in maps.values()])
        listed, placed = as_image_list(images, sizes), self._placed(maps, images)
        by_level = [split_by_level(one, maps) for one in placed]
        counts = [len(one) for one in by_level[0]]
        split = {name: list(torch.split(one, counts, dim=1)) for name, one in outputs.items()}
        found = self._network[0].postprocess_detections(split, by_level, listed.image_sizes)
        return [self._by_class(one, outputs["cls_logits"].shape[2], cuts=sizes is not None) for one in found]

    def raw(self, maps: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes cut to the images, and probabilities (FCOS: their root with that of its centre-ness)."""
        outputs = self.head([one.float() for one in maps.values()])
        placed = self._placed(maps, images[:1])[0]  # (A,4), alike for all images of a size
        coder, moves = self._network[0].box_coder, outputs["bbox_regression"]
        scores = outputs["cls_logits"].sigmoid()
        if isinstance(self._network[0], FCOS):
            boxes = coder.decode(moves, placed.expand(moves.shape[0], -1, -1))
            scores = (scores * outputs["bbox_ctrness"].sigmoid()).sqrt()
        else:
            boxes = self._decoded(moves, placed)
        return clip_boxes_to_image(boxes, as_image_list(images[:1]).image_sizes[0]), scores[..., list(self.columns)]

    def _decoded(self, moves: Tensor, placed: Tensor) -> Tensor:
        """(B,A,4) boxes of (B,A,4) moves of (A,4) anchors."""
        num_images, num_anchors = moves.shape[:2]
        boxes: Tensor = self._network[0].box_coder.decode_single(moves.flatten(0, 1), placed.repeat(num_images, 1))
        return boxes.reshape(num_images, num_anchors, 4)

    def _by_class(self, found: Mapping[str, Tensor], num_columns: int, *, cuts: bool) -> Detections:
        """What torchvision found on an image, without what is of no class of the data, or lies in the padding."""
        classes = torch.full((num_columns,), -1, dtype=torch.int64, device=found["labels"].device)
        classes[list(self.columns)] = torch.arange(self.num_classes, device=classes.device)
        boxes, labels = found["boxes"], classes[found["labels"]]
        is_there = labels >= 0
        if cuts:  # what was cut to nothing
            is_there = is_there & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return Detections(boxes[is_there], found["scores"][is_there], labels[is_there])

    def _split(self, anchors: Tensor, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """One image's anchors by level."""
        return split_by_level(anchors, maps)

    def _placed(self, maps: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
        """(anchors,4) of each image."""
        placed: list[Tensor] = self.anchor_generator(as_image_list(images), list(maps.values()))
        return placed

    def _matched(self, maps: Mapping[str, Tensor], placed: list[Tensor], targets: list[dict[str, Any]]) -> list[Tensor]:
        """By image, the box that each anchor is matched with, less than 0 for none, by the family's own rule.

        The rule is the first half of the family's `compute_loss`, which hands what it finds to the head's.
        """
        network = self._network[0]
        found: list[Tensor] = []

        def keep(targets: Any, outputs: Any, anchors: Any, matches: list[Tensor]) -> dict[str, Tensor]:
            found.extend(matches)
            return {}

        known = ("proposal_matcher", "center_sampling_radius", "BETWEEN_THRESHOLDS")
        like = SimpleNamespace(
            head=SimpleNamespace(compute_loss=keep),
            **{name: getattr(network, name) for name in known if hasattr(network, name)},
        )
        counts = [] if isinstance(network, RetinaNet) else [[one.shape[2] * one.shape[3] for one in maps.values()]]
        type(network).compute_loss(like, targets, {}, placed, *counts)
        return found


def checked_places(question: Any, num_anchors: int) -> Tensor:
    """The places that are asked about.

    Raises:
        UserError: they are of another family, or of other anchors.
    """
    if not isinstance(question, AnchorPlaces) or question.num_anchors != num_anchors:
        raise OtherFamilyError(
            "a one-stage detector answers about the anchors of another one with the same anchors and strides, and "
            "the student has others; take a teacher of the student's family, or methods on maps alone"
        )
    return question.places


def _levels(logits: Tensor, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(B,A*C,h,w) by level of (B,anchors,C) logits, which lie level after level and position after position."""
    places = [one.shape[2] * one.shape[3] for one in maps.values()]
    per_place = logits.shape[1] // sum(places)
    parts = torch.split(logits, [per_place * count for count in places], dim=1)
    return {
        name: part.reshape(len(part), *one.shape[2:], -1).movedim(-1, 1)
        for (name, one), part in zip(maps.items(), parts, strict=True)
    }
