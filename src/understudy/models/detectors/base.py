"""Detector: what every family of detectors offers to a task, and the pyramid of maps that all of them begin with."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections, Proposals, Scored
from understudy.utils.errors import UserError

__all__ = ["Detector", "Pyramid", "RawSifting", "as_image_list", "as_targets", "level_names", "split_by_level"]


_OF_CLASSES = (
    "box_predictor", "mask_fcn_logits", "cls_logits", "class_labels_classifier", "class_embed", "enc_score_head",
    "denoising_class_embed",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RawSifting:
    """How the best of all boxes are chosen at the very end."""

    min_score: float
    most: int  # an image
    overlap: float | None  # of two boxes of a class, above which the less sure one goes; None: all stay


class Pyramid(dict[str, Tensor]):
    """Maps by level, fine ones first, with the detector whose heads can read them."""

    def __init__(self, maps: Mapping[str, Tensor], detector: Detector) -> None:
        super().__init__(maps)
        self.detector = detector


class Detector(nn.Module):
    """A backbone and a pyramid, whose maps `forward` gives, and heads that are asked about them.

    So the costly part is one forward pass of a network, as of a classifier, and a teacher's heads can be asked about
    what a student proposes. Images are normalised already; a batch is padded at the right and at the bottom.

    Args:
        num_classes: C of the data.
        columns: which column of the head's logits is class c of the data; None: 1..C behind the background.
        num_levels: of the pyramid.

    Raises:
        UserError: other columns than classes.
    """

    keeps_all: bool = False  # whether as many boxes are found on every image, without suppression
    sifting: RawSifting | None = None  # how the best of `raw` are chosen; None: it has no `raw`
    picks_rows: bool = False  # whether what stands in a row of `raw` is picked by values, which rounding may swap
    no_export: str | None = None  # why no file to deploy is written of it, where none is
    background: int | None = 0  # its column; None: there is none, every column is a sigmoid

    def __init__(self, num_classes: int, columns: Sequence[int] | None, num_levels: int) -> None:
        super().__init__()
        first = 0 if self.background is None else 1
        self.num_classes = num_classes
        self.columns = tuple(range(first, first + num_classes) if columns is None else columns)
        if len(self.columns) != num_classes or self.background in self.columns:
            raise UserError(
                f"columns names {len(self.columns)} columns of the detector's logits for {num_classes} classes; give "
                "one for each class, in the order of the data's classes, and not the background's"
            )
        self.stages = nn.ModuleList(nn.Identity() for _ in range(num_levels))  # where the levels are tapped
        self.feature_info = [{"module": f"stages.{level}"} for level in range(num_levels)]

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Paths of the layers that depend on the number of classes, as torchvision and transformers call them."""
        paths = [path for path, _ in self.named_modules()]
        return tuple(path for path in paths if path.rpartition(".")[2] in _OF_CLASSES or _is_of_ssd(path, paths))

    def shown(self, images: Tensor) -> Tensor:
        """Images as the backbone sees them: at a size of its own, where it has one."""
        return images

    @abstractmethod
    def levels(self, images: Tensor) -> Sequence[Tensor]:
        """The maps of backbone and pyramid, fine ones first."""

    @abstractmethod
    def anchors(self, maps: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
        """By level, the (H * W * A, 4) boxes that the detector starts from, position by position."""

    @abstractmethod
    def propose(self, maps: Mapping[str, Tensor], images: Tensor, boxes: Boxes) -> Proposals:
        """What the heads are asked about in a training step; draws from torch's global random state."""

    @abstractmethod
    def score(self, maps: Mapping[str, Tensor], proposals: Proposals) -> Scored:
        """What this detector's head says of the proposals, its own or another's."""

    @abstractmethod
    def losses(self, proposals: Proposals, scored: Scored) -> dict[str, Tensor]:
        """The detector's own losses, of its own proposals."""

    @abstractmethod
    def detections(self, maps: Mapping[str, Tensor], images: Tensor, sizes: Tensor | None = None) -> list[Detections]:
        """What is found, by image, in pixels of the batch; `sizes` (B,2) are the images' without padding.

        Without `sizes` nothing is left out for lying outside, so that a file can hold it.
        """

    def raw(self, maps: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """All boxes (B,A,4), or (B,A,C,4) by class, and probabilities (B,A,C), before any is sifted out."""
        raise NotImplementedError(f"{type(self).__name__} sifts its boxes on the way")

    def forward(self, images: Tensor) -> Pyramid:
        """(B,3,H,W) images to maps (B,D,h,w) by level, "p2" at stride 4, "p3" at stride 8 and so on."""
        images = self.shown(images)
        maps = [stage(one) for stage, one in zip(self.stages, self.levels(images), strict=True)]
        return Pyramid(dict(zip(level_names(maps, images), maps, strict=True)), self)

    def answer(self, output: Any, question: Proposals) -> Scored:
        """`score`, for whoever has looked at a batch already and is asked about what somebody else proposes."""
        return self.score(output, question)


def _is_of_ssd(path: str, paths: Sequence[str]) -> bool:
    """Whether it is SSD's head of classes, whose layers have numbers for names."""
    return path.endswith("classification_head") and f"{path}.module_list" in paths


def level_names(maps: Sequence[Tensor], images: Tensor) -> list[str]:
    """ "p2" for a map at a quarter of the images' height, "p3" at an eighth; "p5.1" for a second one of a stride."""
    names: list[str] = []
    level = 0
    for place, one in enumerate(maps):
        # Maps of one position say nothing of their stride: of a small image there may be several.
        is_single = place > 0 and maps[place - 1].shape[2:] == one.shape[2:] == (1, 1)
        level = level + 1 if is_single else round(math.log2(images.shape[2] / one.shape[2]))
        twins = sum(other.partition(".")[0] == f"p{level}" for other in names)
        names.append(f"p{level}.{twins}" if twins else f"p{level}")
    return names


def as_image_list(images: Tensor, sizes: Tensor | None = None) -> ImageList:
    """Images as torchvision's heads take them, with their sizes without padding."""
    height, width = map(int, images.shape[2:])  # plain numbers, also where a graph is traced
    shapes = [(height, width)] * len(images) if sizes is None else [(int(h), int(w)) for h, w in sizes.tolist()]
    return ImageList(images, shapes)


def as_targets(boxes: Boxes, columns: Sequence[int]) -> list[dict[str, Any]]:
    """Boxes to learn as torchvision's heads take them, labelled by the detector's own columns."""
    table = torch.tensor(columns, device=boxes.labels.device)
    return [
        # Masks are asked for by name where a detector has them; nothing here reads them.
        {"boxes": one.boxes, "labels": table[one.labels], "masks": None}
        for one in boxes.to_learn().each()
    ]


def split_by_level(anchors: Tensor, maps: Mapping[str, Tensor]) -> list[Tensor]:
    """One image's anchors by level, of which torchvision gives them one after the other."""
    places = [one.shape[2] * one.shape[3] for one in maps.values()]
    return list(torch.split(anchors, [len(anchors) // sum(places) * count for count in places]))
