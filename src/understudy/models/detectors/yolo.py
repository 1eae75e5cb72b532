"""Networks of the package `ultralytics` as detectors, under their own state_dict keys; users install it themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_convert, clip_boxes_to_image

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections, OtherFamilyError, Proposals, Scored
from understudy.models.detectors.base import Detector, RawSifting, as_image_list
from understudy.models.detectors.yolo_package import class_logits, criterion_of, suppressed
from understudy.utils.errors import UserError

__all__ = ["GridPlaces", "YoloDetector"]

SIFTING = RawSifting(min_score=0.001, most=300, overlap=0.7)  # as the package evaluates


class GridPlaces(NamedTuple):
    """Which places of a batch are rows: those of objects, and as many others."""

    places: Tensor  # (M,) numbers among the places of all levels of all images
    sizes: tuple[tuple[int, int], ...]  # by level, height and width


class _Said(NamedTuple):
    """What the head said of maps."""

    maps: Mapping[str, Tensor]
    predictions: Any  # as the package's loss takes them
    loss: Tensor | None


class YoloDetector(Detector):
    """A YOLO of the package `ultralytics` without anchors (yolov5 as that package has it, yolov8, yolo11 and others).

    Maps are what its head is given: p3, p4 and p5. The rows that methods compare are the places that the package's own
    assignment gives to an object, and as many others drawn at random, with a sigmoid for each class. Its loss is the
    package's, divided by the images that it is multiplied by. A batch is taken with its padding, which is black.

    Args:
        network: the package's DetectionModel; its `args` say how its loss weighs boxes and classes.
        num_classes: C of the data.
        columns: which column of its logits is class c; None: 0..C-1.

    Raises:
        UserError: a head for another task or with a second one beside it (yolov10), or less columns than classes.
    """

    background = None
    no_export = (
        "a network of ultralytics is exported by that package, under its licence: docs/detection.md shows how a "
        "student becomes a file that `yolo export` takes"
    )

    def __init__(self, network: nn.Module, num_classes: int, *, columns: Sequence[int] | None = None) -> None:
        head: Any = network.model[-1]  # type: ignore[index]
        if type(head).__name__ != "Detect" or hasattr(head, "one2one_cv2"):
            raise UserError(
                f"ultralytics: a network that ends in {type(head).__name__} is not adapted: those that find boxes by "
                "one head are (yolov3, yolov5, yolov6, yolov8, yolov9, yolo11, yolo12, yolo26 with end2end: false), "
                "not those with a second one beside it (yolov10), nor those for masks, poses, turned boxes or classes"
            )
        super().__init__(num_classes, columns, head.nl)
        if max(self.columns) >= head.nc:
            raise UserError(
                f"the detector tells {head.nc} classes apart, and {num_classes} are wanted, up to column "
                f"{max(self.columns)}; build it with as many, or name its columns"
            )
        for name, part in network.named_children():
            self.add_module(name, part)
        self.num_columns = int(head.nc)
        self.strides = tuple(int(stride) for stride in head.stride.tolist())
        self.sifting = SIFTING
        # In a tuple, so that their parts are not parts of this one twice.
        self._network = (network, _without_head(network))
        self._criteria: list[Any] = []  # the package's, made when it is first asked for

    @property
    def network(self) -> nn.Module:
        """The package's own object, with these weights."""
        return self._network[0]

    def train(self, mode: bool = True) -> Self:
        """Also of the package's objects."""
        for network in self._network:
            network.training = mode
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Also of tensors that the package keeps beside its parameters, and moves by itself."""
        self._network[0]._apply(fn)  # type: ignore[no-untyped-call]
        self._criteria.clear()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def shown(self, images: Tensor) -> Tensor:
        """Images with black at the right and at the bottom, up to multiples of the largest stride."""
        height, width = images.shape[2:]
        step = self.strides[-1]
        missing = (0, -width % step, 0, -height % step)
        return F.pad(images, missing) if any(missing) else images

    def levels(self, images: Tensor) -> Sequence[Tensor]:
        """What the head is given."""
        found: list[Tensor] = self._network[1](images)
        return found

    def anchors(self, maps: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
        """Refused: there are none."""
        raise UserError("a YOLO of ultralytics has no anchors to imitate near; set detection.masks: boxes")

    def propose(self, maps: Mapping[str, Tensor], images: Tensor, boxes: Boxes) -> Proposals:
        """The places that the package's assignment gives to objects, and as many others."""
        predictions, learnt = self._said(maps), boxes.to_learn()
        columns = torch.tensor(self.columns, device=images.device)
        height, width = next(iter(maps.values())).shape[2:]
        sides = torch.tensor([width, height, width, height], device=images.device) * self.strides[0]
        targets = {
            "img": images,
            "batch_idx": learnt.image.float(),
            "cls": columns[learnt.labels].float()[:, None],
            "bboxes": box_convert(learnt.boxes / sides, "xyxy", "cxcywh").float(),
        }
        loss, assigned, is_object = self._loss(predictions, targets)
        objects, others = is_object.flatten().nonzero().flatten(), (~is_object).flatten().nonzero().flatten()
        drawn = others[torch.randperm(len(others), device=others.device)[: max(1, len(objects))]]
        classes = torch.full((self.num_columns,), -1, device=images.device)
        classes[columns] = torch.arange(self.num_classes, device=images.device)
        return Proposals(
            labels=torch.cat([classes[assigned.flatten()[objects].long()], torch.full_like(drawn, -1)]),
            is_object=torch.cat([torch.ones_like(objects), torch.zeros_like(drawn)]).bool(),
            question=GridPlaces(torch.cat([objects, drawn]), _sizes(maps)),
            own=_Said(maps, predictions, loss / len(images)),
        )

    def score(self, maps: Mapping[str, Tensor], proposals: Proposals) -> Scored:
        """The head's logits at the places in question, and of all by level."""
        asked = proposals.question
        if not isinstance(asked, GridPlaces) or asked.sizes != _sizes(maps):
            raise OtherFamilyError(
                "a YOLO of ultralytics answers about the places of another one with the same strides; take such a "
                "teacher, or methods on maps alone"
            )
        is_own = isinstance(proposals.own, _Said) and proposals.own.maps is maps
        said = proposals.own if is_own else _Said(maps, self._said(maps), None)
        logits = class_logits(said.predictions, self.num_columns)[:, list(self.columns)]  # (B,C,places)
        by_level = torch.split(logits, [height * width for height, width in asked.sizes], dim=2)
        return Scored(
            logits=logits.movedim(1, 2).flatten(0, 1)[asked.places],
            own=said,
            levels={
                name: one.reshape(*one.shape[:2], *maps[name].shape[2:])
                for name, one in zip(maps, by_level, strict=True)
            },
            activation="sigmoid",
        )

    def losses(self, proposals: Proposals, scored: Scored) -> dict[str, Tensor]:
        """The package's own, the mean over the images."""
        assert proposals.own.loss is not None, "asked of its own proposals"
        return {"yolo": proposals.own.loss}

    def detections(self, maps: Mapping[str, Tensor], images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """Boxes after the package's non-maximum suppression by class, the best first."""
        decoded = self._said(maps, decodes=True)  # (B,4+K,places): centre, width, height, probabilities
        rows = [0, 1, 2, 3, *(4 + column for column in self.columns)]
        kept = suppressed(
            decoded[:, rows].float(),
            min_score=SIFTING.min_score,
            overlap=SIFTING.overlap or 1.0,
            most=SIFTING.most,
        )
        found = []
        for one, size in zip(kept, as_image_list(images, sizes).image_sizes, strict=True):
            corners, is_there = clip_boxes_to_image(one[:, :4], size), torch.ones(len(one), dtype=torch.bool)
            if sizes is not None:
                is_there = (corners[:, 2:] > corners[:, :2]).all(dim=1)
            is_there = is_there.to(one.device)
            found.append(Detections(corners[is_there], one[is_there, 4], one[is_there, 5].long()))
        return found

    def _said(self, maps: Mapping[str, Tensor], *, decodes: bool = False) -> Any:
        """What the head says of maps: as its loss takes it, or decoded."""
        head: Any = self._network[0].model[-1]  # type: ignore[index]
        with _in_training(head, not decodes):
            said = head([one.float() for one in maps.values()])  # a new list: older heads write into it
        return said[0] if decodes and isinstance(said, list | tuple) else said

    def _loss(self, predictions: Any, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of the package's losses; which class (B,A) each place is assigned, and where (B,A) to an object."""
        if not self._criteria:
            self._criteria.append(criterion_of(self._network[0]))
        (criterion,) = self._criteria
        caught: list[Any] = []
        handle = criterion.assigner.register_forward_hook(lambda module, given, output: caught.append(output))
        try:
            loss, _ = criterion(predictions, targets)
        finally:
            handle.remove()
        labels, _, _, is_object, _ = caught[-1]
        return loss.sum(), labels, is_object.bool()


class _Inputs(nn.Module):
    """In the place of a head: what the head would be given."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        for name in ("f", "i", "type", "np"):  # by which the package finds its inputs
            if hasattr(head, name):
                setattr(self, name, getattr(head, name))

    def forward(self, given: Sequence[Tensor]) -> list[Tensor]:
        return list(given)


def _without_head(network: nn.Module) -> nn.Module:
    """A second object on the same layers, which stops before the head."""
    layers: Any = network.model
    body = copy.copy(network)
    body._modules = dict(network._modules)
    body.model = nn.Sequential(*layers[:-1], _Inputs(layers[-1]))
    return body


@contextmanager
def _in_training(head: nn.Module, mode: bool) -> Iterator[None]:
    """The head alone in a mode, by which it decides on the form of its answer; its norms stay as they are."""
    before, head.training = head.training, mode
    try:
        yield
    finally:
        head.training = before


def _sizes(maps: Mapping[str, Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((int(one.shape[2]), int(one.shape[3])) for one in maps.values())
