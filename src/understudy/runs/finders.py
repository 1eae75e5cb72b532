"""Detectors that are opened to find: a picture in, boxes in its own pixels out; of a network, or of a file of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections
from understudy.core.image_size import height_and_width, size_from
from understudy.core.passes import left_as_it_was
from understudy.data import DataConfig
from understudy.data.augment.boxes import BoxRendering, box_rendering, padded, padded_size, rendered
from understudy.models.detectors.base import RawSifting
from understudy.models.export import Runner
from understudy.tasks import DetectorLike
from understudy.utils.errors import UserError

__all__ = ["FileDetector", "FileMaps", "Finder", "finder_of", "finder_told", "num_found"]

Finder = Callable[[Tensor], Detections]


@dataclass(frozen=True)
class FileDetector:
    """A file as a detector that is asked what it finds.

    Attributes:
        run: images to boxes, labels and scores of one image, or to raw boxes and scores.
        canvas: height and width of the images that it takes; smaller ones lie at the top left of black.
        sifting: of raw boxes.
    """

    run: Runner
    canvas: tuple[int, int]
    sifting: RawSifting | None = None

    def detections(self, maps: object, images: Tensor, sizes: Tensor) -> list[Detections]:
        """By image, in pixels of the batch and cut to the images without their padding."""
        return [
            self._found(image, (int(height), int(width)))
            for image, (height, width) in zip(images, sizes.tolist(), strict=True)
        ]

    def _found(self, image: Tensor, size: tuple[int, int]) -> Detections:
        height, width = self.canvas
        whole = image[None, :, :height, :width].cpu()
        whole = F.pad(whole, (0, width - whole.shape[3], 0, height - whole.shape[2])).contiguous()
        with torch.no_grad():
            said = self.run(whole)
        boxes, labels, scores = said if self.sifting is None else sifted(self.sifting, *(part[0] for part in said))
        boxes = clip_boxes_to_image(boxes, size)
        is_there = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        return Detections(boxes[is_there], scores[is_there], labels[is_there])


def sifted(sifting: RawSifting, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, labels and scores of one image's raw (A,4) or (A,C,4) boxes and (A,C) scores, the surest first."""
    places, labels = (scores > sifting.min_score).nonzero(as_tuple=True)
    found, sure = boxes[places] if boxes.ndim == 2 else boxes[places, labels], scores[places, labels]
    order = sure.argsort(descending=True)
    kept = order if sifting.overlap is None else batched_nms(found, sure, labels, sifting.overlap)
    kept = kept[: sifting.most]
    return found[kept], labels[kept], sure[kept]


@dataclass(frozen=True)
class FileMaps:
    """What evaluation gets of a file in place of maps: whom to ask."""

    detector: FileDetector


def finder_of(module: nn.Module, config: DataConfig | None) -> Finder | None:
    """What finds the boxes on a (3,H,W) picture in [0,1] as evaluation does, the surest first; None of no detector.

    Args:
        module: a detector, or one with its normalisation before it; run where it is.
        config: says at what size pictures are shown; None: as they are, up to 1333 pixels.
    """
    detector = _detector_in(module)
    if detector is None:
        return None
    shown = BoxRendering(shorter_sides=None) if config is None else box_rendering(config)

    def look(images: Tensor, sizes: Tensor) -> Detections:
        images = images.to(next(module.parameters()).device)
        with left_as_it_was(module), torch.no_grad():
            (said,) = detector.detections(module.eval()(images), images, sizes)
        return said

    return _finder(shown, look)


def num_found(module: nn.Module) -> int | None:
    """How many classes a detector tells apart; None of no detector."""
    detector = _detector_in(module)
    return None if detector is None else detector.num_classes


def _detector_in(module: nn.Module) -> DetectorLike | None:
    return next((part for part in module.modules() if isinstance(part, DetectorLike)), None)


def finder_told(run: Runner, told: Mapping[str, Any], *, name: str) -> Finder | None:
    """As `finder_of`, of a file that says how pictures are shown to it; None of one that is no detector.

    Args:
        run: the file.
        told: what it says of itself.
        name: of the file, for messages.

    Raises:
        UserError: what it says cannot be read.
    """
    if "canvas" not in told:
        return None
    try:
        shorter, sifting = told.get("shorter_side"), told.get("sifting")
        canvas = height_and_width(size_from(told["canvas"]))
        shown = BoxRendering(
            shorter_sides=None if shorter is None else (int(shorter),),
            longer_side=int(told["longer_side"]),
            within=canvas,
        )
        detector = FileDetector(run, canvas, None if sifting is None else RawSifting(**sifting))
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"{name}: what it says of its images cannot be read: {error}") from None
    return _finder(shown, lambda images, sizes: detector.detections(None, images, sizes)[0])


def _finder(shown: BoxRendering, look: Callable[[Tensor, Tensor], Detections]) -> Finder:
    def found(picture: Tensor) -> Detections:
        height, width = picture.shape[1:]
        size = shown.whole((height, width))
        image, boxes = rendered(picture, Boxes.none((height, width)), size)
        said = look(padded([image], padded_size([size])), boxes.sizes)
        order = said.scores.argsort(descending=True)
        corners = boxes.in_files(said.boxes.cpu(), 0)[order.cpu()]
        return Detections(corners, said.scores[order].cpu(), said.labels[order].cpu())

    return found
