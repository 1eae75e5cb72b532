"""Detections laid beside the boxes that are there, as COCO does: which find one, which count neither way."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections

__all__ = ["AREAS", "ARRAYS", "IOU_THRESHOLDS", "MOST_DETECTIONS", "Matches", "matched"]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MOST_DETECTIONS = 100  # of one class on one image

_RANGES = np.array(list(AREAS.values()))  # (A,2)
_Bools = NDArray[np.bool_]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Matches:
    """Every detection of a data set with what it found, image by image: average precision needs no more than this.

    T overlap thresholds, A ranges of area, as in IOU_THRESHOLDS and AREAS.
    """

    image: NDArray[np.int64]  # (n,) number of its image, not falling
    label: NDArray[np.int64]  # (n,) its class
    score: _Floats  # (n,)
    rank: NDArray[np.int64]  # (n,) place among the detections of its class and image, by score
    is_right: _Bools  # (n,A,T) found a box
    is_ignored: _Bools  # (n,A,T) counts neither way: in a crowd, or out of the range of areas
    corners: NDArray[np.float32]  # (n,4) x1, y1, x2, y2 in pixels of the file
    box_image: NDArray[np.int64]  # (g,) images and classes of the boxes that are there
    box_label: NDArray[np.int64]  # (g,)
    box_counts: _Bools  # (g,A) no crowd, and within the range
    box_score: _Floats  # (g,) score of the detection that finds it at an overlap of 0.5; -1 where none does
    box_corners: NDArray[np.float32]  # (g,4)
    num_images: int
    num_classes: int

    @classmethod
    def joined(cls, parts: list[Matches]) -> Matches:
        """Those of several stretches of images, one after the other."""
        starts = np.cumsum([0, *(part.num_images for part in parts)])
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
        for name in ("image", "box_image"):
            moved = [getattr(part, name) + start for part, start in zip(parts, starts[:-1], strict=True)]
            arrays[name] = np.concatenate(moved)
        return cls(**arrays, num_images=int(starts[-1]), num_classes=parts[0].num_classes)


ARRAYS = tuple(field.name for field in fields(Matches) if not field.name.startswith("num_"))


def matched(found: list[Detections], boxes: Boxes, num_classes: int) -> Matches:
    """Lay what was found on B images beside the boxes that are there.

    Lin et al., "Microsoft COCO", ECCV 2014, as its evaluation code does it: detections of a class, the best first
    and at most 100 on an image, each take the box of largest overlap that is left, of two alike the later one. A
    crowd may be found any number of times, its overlap is over the detection's own area, and what finds it counts
    neither way.

    Args:
        found: by image.
        boxes: of the same images, crowds among them.
        num_classes: C.
    """
    assert len(found) == boxes.num_images, "one Detections for each image"
    parts = [_of_class(_arrays(_NOTHING, Boxes.none((0, 0))), 0, 0)]  # so that types and shapes are known
    for number, (here, truth) in enumerate(zip(found, boxes.each(), strict=True)):
        image = _arrays(here, truth)
        labels = np.union1d(image.found_labels, image.labels)
        parts += [_of_class(image, int(label), number) for label in labels]
    arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Matches(**arrays, num_images=boxes.num_images, num_classes=num_classes)


class _Image(NamedTuple):
    """One image in numpy, where many small operations cost a tenth of torch's."""

    corners: _Floats  # (D,4)
    scores: _Floats
    found_labels: NDArray[np.int64]
    boxes: _Floats  # (g,4)
    areas: _Floats
    labels: NDArray[np.int64]
    crowd: _Bools


def _arrays(found: Detections, truth: Boxes) -> _Image:
    floats = (found.boxes, found.scores, truth.boxes, truth.area)
    corners, scores, boxes, areas = (tensor.detach().double().cpu().numpy() for tensor in floats)
    others = (found.labels, truth.labels, truth.crowd)
    found_labels, labels, crowd = (tensor.cpu().numpy() for tensor in others)
    return _Image(corners, scores, found_labels, boxes, areas, labels, crowd)


def _of_class(image: _Image, label: int, number: int) -> dict[str, NDArray[Any]]:
    """What `Matches` has of one class on image `number`, by name."""
    of_label = np.flatnonzero(image.found_labels == label)
    chosen = of_label[np.argsort(-image.scores[of_label], kind="stable")][:MOST_DETECTIONS]
    corners, there = image.corners[chosen], image.labels == label
    areas, is_crowd = image.areas[there], image.crowd[there]
    counts = _within(areas) & ~is_crowd[:, None]  # (g,A)
    overlaps = _overlaps(corners, image.boxes[there], is_crowd)
    is_right, is_ignored, taken = _matched(overlaps, counts.T, is_crowd)
    box_score = np.full(len(areas), -1.0)
    box_score[taken[taken >= 0]] = image.scores[chosen][taken >= 0]
    is_outside = ~_within(_areas(corners))  # (D,A)
    return {
        "image": np.full(len(chosen), number),
        "label": np.full(len(chosen), label),
        "score": image.scores[chosen],
        "rank": np.arange(len(chosen)),
        "is_right": is_right,
        "is_ignored": is_ignored | (~is_right & ~is_ignored & is_outside[:, :, None]),
        "corners": corners.astype(np.float32),
        "box_image": np.full(len(areas), number),
        "box_label": np.full(len(areas), label),
        "box_counts": counts,
        "box_score": box_score,
        "box_corners": image.boxes[there].astype(np.float32),
    }


def _matched(overlaps: _Floats, counts: _Bools, is_crowd: _Bools) -> tuple[_Bools, _Bools, NDArray[np.int64]]:
    """Which of D detections find a box that counts, and which one that does not: (D,A,T) each.

    The third is (D,) which box that counts each finds at the lowest threshold and any area; -1 where none.

    Args:
        overlaps: (D,g).
        counts: (A,g), whether a box counts in a range of areas.
        is_crowd: (g,).
    """
    num_found, num_boxes = overlaps.shape
    shape = (len(AREAS), len(IOU_THRESHOLDS))
    is_right, is_ignored = np.zeros((2, num_found, *shape), dtype=bool)
    taken = np.full(num_found, -1)
    if not num_boxes:
        return is_right, is_ignored, taken
    is_left = np.ones((*shape, num_boxes), dtype=bool)  # (A,T,g) not yet found, or a crowd
    needed = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[None, :, None]
    ranges, thresholds = np.indices(shape)
    for number, row in enumerate(overlaps):
        can_be = is_left & (row >= needed)
        first, second = can_be & counts[:, None], can_be & ~counts[:, None]
        has_first, has_second = first.any(axis=2), second.any(axis=2)
        candidates = np.where(has_first[..., None], first, second)
        values = np.where(candidates, row, -1.0)
        best = num_boxes - 1 - values[..., ::-1].argmax(axis=2)  # of two alike the later one
        is_right[number] = has_first
        is_ignored[number] = ~has_first & has_second
        taken[number] = best[0, 0] if has_first[0, 0] else -1
        takes = (has_first | has_second) & ~is_crowd[best]
        is_left[ranges[takes], thresholds[takes], best[takes]] = False
    return is_right, is_ignored, taken


def _overlaps(found: _Floats, boxes: _Floats, is_crowd: _Bools) -> _Floats:
    """(D,g) intersection over union; over the detection's own area where the box is a crowd."""
    low = np.maximum(found[:, None, :2], boxes[None, :, :2])
    high = np.minimum(found[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    own = np.broadcast_to(_areas(found)[:, None], shared.shape)
    union = np.where(is_crowd, own, own + _areas(boxes)[None] - shared)
    overlaps: _Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def _areas(boxes: _Floats) -> _Floats:
    areas: _Floats = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def _within(areas: _Floats) -> _Bools:
    """(n,A) whether an area is in a range, both ends included."""
    within: _Bools = (areas[:, None] >= _RANGES[:, 0]) & (areas[:, None] <= _RANGES[:, 1])
    return within


_NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
