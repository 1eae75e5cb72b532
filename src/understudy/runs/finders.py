"""Detectors that are opened to predict: a picture in, boxes in its own pixels out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections
from understudy.core.passes import left_as_it_was
from understudy.data import DataConfig
from understudy.data.augment.boxes import BoxRendering, box_rendering, padded, padded_size, rendered
from understudy.tasks import DetectorLike

__all__ = ["finder_of"]


def finder_of(module: nn.Module, config: DataConfig | None) -> Callable[[Tensor], Detections] | None:
    """What finds the boxes on a (3,H,W) picture in [0,1] as evaluation does, the surest first; None of no detector.

    Args:
        module: a detector, or one with its normalisation before it; run where it is.
        config: says at what size pictures are shown; None: as they are, up to 1333 pixels.
    """
    detector = next((part for part in module.modules() if isinstance(part, DetectorLike)), None)
    if detector is None:
        return None
    shown = BoxRendering(shorter_sides=None) if config is None else box_rendering(config)

    def found(picture: Tensor) -> Detections:
        height, width = picture.shape[1:]
        size = shown.whole((height, width))
        image, boxes = rendered(picture, Boxes.none((height, width)), size)
        images = padded([image], padded_size([size])).to(next(module.parameters()).device)
        with left_as_it_was(module), torch.no_grad():
            maps = module.eval()(images)
            (said,) = detector.detections(maps, images, boxes.sizes)
        order = said.scores.argsort(descending=True)
        corners = boxes.in_files(said.boxes.cpu(), 0)[order.cpu()]
        return Detections(corners, said.scores[order].cpu(), said.labels[order].cpu())

    return found
