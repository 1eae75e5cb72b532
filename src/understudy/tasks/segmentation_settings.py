"""Settings of segmentation: which pixels are compared, and how whole images are looked at and scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from torch import Tensor

from understudy.core.config import Config
from understudy.core.image_size import ImageSize, height_and_width
from understudy.tasks.iou import AbsentClass
from understudy.tasks.pixel_views import averaged_logits, slid_logits

__all__ = ["SegmentationConfig"]


class SegmentationConfig(Config):
    """Settings of segmentation."""

    rows: Literal["all", "valid"] = (
        "all"  # which pixels methods on logits see: all (DIST, CIRKD), or those with a label
    )
    aux_weight: float = Field(default=0.4, ge=0)  # of the auxiliary head's cross-entropy; PSPNet's, and CIRKD's code
    align_corners: bool = False  # logits are enlarged corner on corner, as in CIRKD's code; False: as torchvision does
    eval_scales: tuple[float, ...] = Field(default=(1.0,), min_length=1, max_length=16)  # of images, averaged
    eval_mirrored: bool = False  # evaluation looks at each image from right to left, too
    window: ImageSize | None = None  # evaluation slides it over the image and averages logits; None: whole images
    stride: ImageSize | None = None  # pixels from one window to the next; None: two thirds of the window
    absent: AbsentClass = "left_out"  # a class that neither labels nor predictions have: left out of mIoU, or zero

    @field_validator("eval_scales")
    @classmethod
    def _are_factors(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.1 <= scale <= 8 for scale in scales) or len(set(scales)) < len(scales):
            raise ValueError(f"are factors from 0.1 to 8, each once, got {list(scales)}")
        return scales

    @model_validator(mode="after")
    def _slides_over_every_pixel(self) -> Self:
        if self.stride is None:
            return self
        if self.window is None:
            raise ValueError("stride: is of windows that slide over the image; set window, or leave out the stride")
        steps, sides = height_and_width(self.stride), height_and_width(self.window)
        if any(step > side for step, side in zip(steps, sides, strict=True)):
            raise ValueError(
                f"stride: {self.stride} is more than the window's {self.window}, so that pixels between two windows "
                "would never be looked at; make it smaller"
            )
        return self

    @property
    def looks_once(self) -> bool:
        """Whether evaluation shows the network each image as it is, once."""
        return self.window is None and self.eval_scales == (1.0,) and not self.eval_mirrored

    def seen(self, look: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What a segmenter says of images after all looks at them.

        Args:
            look: (B,3,H,W) images to (B,C,h,w) logits.
            images: (B,3,H,W).

        Returns:
            (B,C,h,w) logits, at the segmenter's own stride where it looks at whole images, else at every pixel.
        """

        def looked(shown: Tensor) -> Tensor:
            if self.window is None:
                return look(shown)
            stride = self.stride
            if stride is None:
                height, width = height_and_width(self.window)
                stride = (max(1, 2 * height // 3), max(1, 2 * width // 3))
            return slid_logits(look, shown, window=self.window, stride=stride, align_corners=self.align_corners)

        return averaged_logits(looked, images, scales=self.eval_scales, is_mirrored=self.eval_mirrored)
