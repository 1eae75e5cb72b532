"""Detectors with queries: transformers' DETR, RT-DETR (v2) and D-FINE, under their own state_dict keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, clip_boxes_to_image

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections, OtherFamilyError, Proposals, Scored
from understudy.models.detectors.assignment import assigned
from understudy.models.detectors.base import Detector, RawSifting, as_image_list
from understudy.utils.errors import UserError

__all__ = ["FAMILIES", "LabelledBoxes", "QueryDetector"]

FAMILIES = ("detr", "rt_detr", "rt_detr_v2", "d_fine")  # model_type of their configurations
MOST_FOUND = 100  # an image, as COCO counts them


class LabelledBoxes(NamedTuple):
    """The boxes of a batch, of each of which a detector is asked what its matching query says."""

    labels: tuple[Tensor, ...]  # by image, (g,) classes of the data
    boxes: tuple[Tensor, ...]  # by image, (g,4) centre, width and height as shares of the batch's sides
    has_background: bool  # whether who asks tells objects from nothing by a softmax


class _Decoded(NamedTuple):
    """What the decoder said of maps."""

    maps: Mapping[str, Tensor]
    logits: Tensor  # (B,Q,K)
    boxes: Tensor  # (B,Q,4) centre, width and height as shares of the batch's sides
    loss: Tensor | None


class QueryDetector(Detector):
    """A transformer whose queries are boxes, matched one by one with the labelled ones, without suppression.

    Carion et al., "End-to-End Object Detection with Transformers" (DETR), ECCV 2020; Zhao et al., "DETRs Beat YOLOs on
    Real-time Object Detection" (RT-DETR), CVPR 2024; Peng et al., "D-FINE", ICLR 2025, as transformers builds and
    trains them: the criterion is its own. Maps are those of the encoder: one at stride 32 of DETR, three of the others.
    The rows that methods compare are the labelled boxes, each by the query that matches it best (Hungarian assignment);
    a teacher matches its own. A batch is taken with its padding, which is black.

    Args:
        network: of transformers; its configuration says the family.
        num_classes: C of the data.
        columns: which column of the logits is class c; None: 0..C-1. DETR's last one means no object.

    Raises:
        UserError: a family that has no adapter, or less columns than classes.
    """

    background = None
    keeps_all = True
    picks_rows = True

    def __init__(self, network: nn.Module, num_classes: int, *, columns: Sequence[int] | None = None) -> None:
        config: Any = network.config
        if config.model_type not in FAMILIES:
            raise UserError(
                f"a {config.model_type} cannot be distilled as a detector; of transformers' those that can are "
                f"{', '.join(FAMILIES)}"
            )
        is_detr, inner = config.model_type == "detr", cast(Any, network.model)
        super().__init__(num_classes, columns, 1 if is_detr else len(inner.encoder_input_proj))
        if max(self.columns) >= config.num_labels:
            raise UserError(
                f"the detector tells {config.num_labels} classes apart, and {num_classes} are wanted, up to column "
                f"{max(self.columns)}; build it with as many (num_labels), or name its columns"
            )
        for name, part in network.named_children():
            self.add_module(name, part)
        self.config = config
        self.has_background = is_detr
        self.sifting = RawSifting(min_score=0.0, most=MOST_FOUND, overlap=None)
        self._network = (network,)  # in a tuple, so that its parts are not parts of this one twice

    @property
    def architecture(self) -> str:
        """What transformers calls its class."""
        return type(self._network[0]).__name__

    def train(self, mode: bool = True) -> Self:
        """Also of transformers' object, whose forward pass asks itself."""
        self._network[0].training = mode
        return super().train(mode)

    def levels(self, images: Tensor) -> Sequence[Tensor]:
        """The encoder's maps."""
        inner: Any = self.model
        mask = torch.ones((images.shape[0], *images.shape[2:]), device=images.device)
        features = inner.backbone(images, mask)
        if not self.has_background:
            projected = [inner.encoder_input_proj[level](one) for level, (one, _) in enumerate(features)]
            return list(inner.encoder(projected).last_hidden_state)
        last, mask = features[-1]
        places = inner.position_embedding(shape=last.shape, device=last.device, dtype=images.dtype, mask=mask)
        encoded = inner.encoder(
            inputs_embeds=_flat(inner.input_projection(last)),
            attention_mask=mask.flatten(1),
            spatial_position_embeddings=_flat(places),
        ).last_hidden_state
        return [encoded.transpose(1, 2).unflatten(2, tuple(last.shape[2:]))]

    def anchors(self, maps: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
        """Refused: there are none."""
        raise UserError("a detector with queries has no anchors to imitate near; set detection.masks: boxes")

    def propose(self, maps: Mapping[str, Tensor], images: Tensor, boxes: Boxes) -> Proposals:
        """The labelled boxes, and what the decoder says of these maps."""
        height, width = images.shape[2:]
        sides = torch.tensor([width, height, width, height], device=images.device)
        learnt = boxes.to_learn().each()
        labels = tuple(one.labels for one in learnt)
        shares = tuple(box_convert(one.boxes / sides, "xyxy", "cxcywh").float() for one in learnt)
        table = torch.tensor(self.columns, device=images.device)
        targets = [
            {"class_labels": table[of_image], "boxes": where} for of_image, where in zip(labels, shares, strict=True)
        ]
        decoded = self._decoded(maps, targets)
        classes = torch.cat(labels)
        is_object = torch.ones_like(classes, dtype=torch.bool)
        if not len(classes):  # one row all the same, of a query that is no object
            classes = classes.new_full((1,), self.num_classes if self.has_background else -1)
            is_object = torch.zeros_like(classes, dtype=torch.bool)
        return Proposals(classes, is_object, LabelledBoxes(labels, shares, self.has_background), own=decoded)

    def score(self, maps: Mapping[str, Tensor], proposals: Proposals) -> Scored:
        """The logits of the query that matches each box."""
        asked: Any = proposals.question
        if not isinstance(asked, LabelledBoxes) or asked.has_background != self.has_background:
            raise OtherFamilyError(
                "a detector with queries answers about labelled boxes as another one of its kind asks: with a softmax "
                "and a column of no object (detr), or with a sigmoid for each class (rt_detr, rt_detr_v2, d_fine); "
                "take a teacher of the student's family, or methods on maps alone"
            )
        is_own = isinstance(proposals.own, _Decoded) and proposals.own.maps is maps
        decoded = proposals.own if is_own else self._decoded(maps, None)
        by_class = self._by_class(decoded.logits)
        found = by_class.detach()
        sure = found.softmax(dim=2) if self.has_background else found.sigmoid()
        queries = assigned(sure, decoded.boxes.detach(), asked.labels, asked.boxes)
        rows = [by_class[image, places] for image, places in enumerate(queries)]
        logits = torch.cat(rows) if any(map(len, queries)) else by_class[0, :1]
        return Scored(logits, own=decoded, activation="softmax" if self.has_background else "sigmoid")

    def losses(self, proposals: Proposals, scored: Scored) -> dict[str, Tensor]:
        """The network's own criterion, of all layers of its decoder."""
        assert scored.own.loss is not None, "asked of its own proposals"
        return {"criterion": scored.own.loss}

    def detections(self, maps: Mapping[str, Tensor], images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """The surest boxes, at most 100 an image."""
        boxes, scores = self.raw(maps, images)
        found = []
        for of_image, sure, size in zip(boxes, scores, as_image_list(images, sizes).image_sizes, strict=True):
            best, places = sure.flatten().topk(min(MOST_FOUND, sure.numel()))
            queries, labels = places // self.num_classes, places % self.num_classes
            corners = clip_boxes_to_image(of_image[queries], size)
            if sizes is not None:
                is_there = (best > 0) & (corners[:, 2:] > corners[:, :2]).all(dim=1)
                corners, best, labels = corners[is_there], best[is_there], labels[is_there]
            found.append(Detections(corners, best, labels))
        return found

    def raw(self, maps: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """All queries; of DETR each with its one likeliest class."""
        decoded = self._decoded(maps, None)
        height, width = map(int, images.shape[2:])
        sides = torch.tensor([width, height, width, height], device=decoded.boxes.device)
        boxes = box_convert(decoded.boxes.float(), "cxcywh", "xyxy") * sides
        logits = self._by_class(decoded.logits.float())
        if not self.has_background:
            return boxes, logits.sigmoid()
        scores = logits.softmax(dim=2)[..., :-1]
        return boxes, torch.where(scores == scores.amax(dim=2, keepdim=True), scores, 0.0)

    def _by_class(self, logits: Tensor) -> Tensor:
        """Columns by class of the data; that of no object last, where there is one."""
        last = [logits.shape[2] - 1] if self.has_background else []
        return logits[..., [*self.columns, *last]]

    def _decoded(self, maps: Mapping[str, Tensor], targets: list[dict[str, Tensor]] | None) -> _Decoded:
        network: Any = self._network[0]
        network.training = self.training
        given = list(maps.values())
        like = given[0]
        if self.has_background:
            encoded = SimpleNamespace(last_hidden_state=_flat(like), hidden_states=None, attentions=None)
            with _blank_backbone(self.model, like):
                output = network(like.new_zeros(len(like), 3, 1, 1), encoder_outputs=encoded, labels=targets)
        else:
            output = network(None, inputs_embeds=like, encoder_outputs=(given,), labels=targets)
        return _Decoded(maps, output.logits, output.pred_boxes, None if targets is None else output.loss)


def _flat(maps: Tensor) -> Tensor:
    """(B,h*w,D) of (B,D,h,w)."""
    return maps.flatten(2).transpose(1, 2)


@contextmanager
def _blank_backbone(inner: Any, like: Tensor) -> Iterator[None]:
    """DETR without a look at images: its decoder needs of the backbone's map the size alone."""
    batch, _, height, width = like.shape
    features = like.new_zeros(batch, inner.input_projection.in_channels, height, width)
    mask = torch.ones(batch, height, width, dtype=torch.bool, device=like.device)
    inner.backbone.forward = lambda *args, **kwargs: [(features, mask)]
    try:
        yield
    finally:
        del inner.backbone.forward
