"""A classifier that pictures are shown to, and what is laid around the network for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from understudy.core.detection import Detections
from understudy.core.image_size import ImageSize
from understudy.core.outputs import logits_of
from understudy.data.augment.config import NoAugment
from understudy.data.augment.crops import Rendering, covered
from understudy.data.sources.base import as_unit
from understudy.data.sources.greys import Greys
from understudy.tasks.segmentation_settings import SegmentationConfig
from understudy.utils.errors import UserError

__all__ = ["Classifier", "runs_of", "scaled", "viewed"]


@dataclass(frozen=True)
class Classifier:
    """Images to logits, and how a picture is brought to it.

    Attributes:
        name: for messages.
        logits: (B,3,H,W) in [0,1] on the CPU to (B,C) there, or to (B,C,h,w), a class for every pixel.
        classes: their names; None where they are not known.
        image_size: that images are brought to; None: as they come, one by one.
        crop_share: sides of the centre that is cut out, as a share of what images are scaled to cover.
        applies_exif: whether image files are turned upright.
        greys: what becomes black and white of greys of more than 8 bits; None: by each image alone.
        channels: D of its images.
        align_corners: of a segmenter, how its logits are enlarged to the picture.
        finds: of a detector, the boxes on a picture (3,H,W); None of others.
        num_found: of a detector, how many classes it tells apart; None where that is not known.
    """

    name: str
    logits: Callable[[Tensor], Tensor]
    classes: tuple[str, ...] | None
    image_size: ImageSize | None
    crop_share: float = 1.0
    applies_exif: bool = True
    greys: Greys | None = None
    channels: int = 3
    align_corners: bool = False
    finds: Callable[[Tensor], Detections] | None = None
    num_found: int | None = None

    def prepared(self, image: Tensor) -> Tensor:
        """(3,H,W) uint8 as the classifier takes it, (3,*image_size) in [0,1], as evaluation shows it."""
        if self.image_size is None:
            return as_unit(image)
        if self.crop_share == 1:
            return covered(as_unit(image)[None], self.image_size)[0]
        rendered, _ = Rendering(NoAugment(), self.image_size)(image)
        return as_unit(rendered)

    def class_name(self, number: int) -> str:
        """The name of a class, or its number."""
        return self.classes[number] if self.classes is not None and number < len(self.classes) else str(number)


def runs_of(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The module where it is, in evaluation mode for each look and as it was afterwards."""
    like = next(module.parameters(), torch.empty(0))

    def logits(images: Tensor) -> Tensor:
        was_training = {part: part.training for part in module.modules()}
        try:
            with torch.no_grad():
                found = logits_of(module.eval()(images.to(like.device)))
        finally:
            for part, mode in was_training.items():
                part.training = mode
        if found is None:
            raise UserError(f"{type(module).__name__} gives no logits; it should return a tensor, or a dict with them")
        return found.float().cpu()

    return logits


def viewed(logits: Callable[[Tensor], Tensor], views: SegmentationConfig) -> Callable[[Tensor], Tensor]:
    """The same after all looks that a segmenter's evaluation takes."""
    return logits if views.looks_once else partial(views.seen, logits)


def scaled(logits: Callable[[Tensor], Tensor], shorter_side: Any) -> Callable[[Tensor], Tensor]:
    """The same on images that are brought to a shorter side first, as evaluation does where that is set."""
    if not isinstance(shorter_side, int) or isinstance(shorter_side, bool) or shorter_side < 1:
        return logits
    return lambda images: logits(resize(images, [shorter_side], antialias=True))
