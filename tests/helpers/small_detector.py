"""A Faster R-CNN that is small enough for a test."""

from __future__ import annotations

from typing import Any

__all__ = ["small_faster_rcnn"]


def small_faster_rcnn(*, proposals: int = 16, **kwargs: Any) -> dict[str, Any]:
    """As a recipe names it; `proposals`: as many as pass its first stage, before and after suppression."""
    few = {f"rpn_{when}_nms_top_n_{mode}": proposals for when in ("pre", "post") for mode in ("train", "test")}
    return {
        "model": "fasterrcnn:resnet10t",
        "kwargs": {
            "width": 8,
            "head_width": 16,
            "anchor_sizes": [8, 16, 32, 64, 128],
            "backbone": {"channels": [8, 8, 16, 16], "stem_width": 8},
            "box_batch_size_per_image": 16,
            **few,
            **kwargs,
        },
        "weights": "none",
    }
