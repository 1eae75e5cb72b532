"""Match lists of detectors, as predictions.safetensors keeps them, checked before anything is computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.analysis.arrays import ArrayLike, as_array
from understudy.results.schema import MOST_CLASSES
from understudy.tasks.box_matches import AREAS, ARRAYS, IOU_THRESHOLDS, Matches

__all__ = ["match_list"]

MOST_IMAGES = 5_000_000  # beyond which tables of so many rows would be made for a damaged file
_KINDS = {"is_right": "b", "is_ignored": "b", "box_counts": "b"}
_FLOATS = ("score", "corners", "box_score", "box_corners")
_ENDS = {
    "is_right": (len(AREAS), len(IOU_THRESHOLDS)),
    "is_ignored": (len(AREAS), len(IOU_THRESHOLDS)),
    "box_counts": (len(AREAS),),
    "corners": (4,),
    "box_corners": (4,),
}


def match_list(tensors: Mapping[str, ArrayLike], *, split: str, of: str) -> Matches | None:
    """What the detections of one model found; None where it was not kept, or is damaged.

    Args:
        tensors: of predictions.safetensors.
        split: "val" or "test".
        of: "teacher", or "ROW/SEED".
    """
    found = {name: tensors.get(f"matches.{name}/{split}/{of}") for name in (*ARRAYS, "num_images", "num_classes")}
    arrays: dict[str, Any] = {name: as_array(kept) for name, kept in found.items() if kept is not None}
    if len(arrays) < len(found):
        return None
    counts = {name: arrays.pop(name) for name in ("num_images", "num_classes")}
    if any(count.ndim or count.dtype.kind not in "iu" for count in counts.values()):
        return None
    num_images, num_classes = int(counts["num_images"]), int(counts["num_classes"])
    if num_images > MOST_IMAGES or num_classes > MOST_CLASSES or not _is_whole(arrays, num_images, num_classes):
        return None
    return Matches(**arrays, num_images=num_images, num_classes=num_classes)


def _is_whole(arrays: Mapping[str, Any], num_images: int, num_classes: int) -> bool:
    lengths = {name: len(arrays["box_image" if name.startswith("box_") else "image"].ravel()) for name in ARRAYS}
    for name, array in arrays.items():
        kind = _KINDS.get(name, "f" if name in _FLOATS else "i")
        if array.shape != (lengths[name], *_ENDS.get(name, ())) or array.dtype.kind != kind:
            return False
        if kind == "f" and not np.isfinite(array).all():
            return False
    below = {"image": num_images, "box_image": num_images, "label": num_classes, "box_label": num_classes}
    return all(_is_within(arrays[name], most) for name, most in below.items()) and num_images > 0


def _is_within(numbers: Any, most: int) -> bool:
    return not len(numbers) or (int(numbers.min()) >= 0 and int(numbers.max()) < most)
