"""What a run of detection kept for its page: AP by class, how many objects of which size, and images with boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from understudy.report.run_data import RunData
from understudy.results.matches import match_list
from understudy.results.schema import Row
from understudy.tasks.box_ap import box_scores
from understudy.tasks.box_found import best_score
from understudy.tasks.box_matches import AREAS, Matches

__all__ = ["BoxExample", "DrawnBox", "box_examples", "class_precisions", "num_boxes", "num_by_size"]

MOST_SIDE = 1_024
MOST_EXAMPLES = 8
MOST_BOXES = 40  # drawn on one image

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """A box on an image as it is shown."""

    corners: tuple[float, float, float, float]  # x1, y1, x2, y2 in its pixels
    label: int
    kind: Literal["true", "right", "wrong", "missed"]  # of the labels; of a detector: finds one, finds none, not found


@dataclass(frozen=True, slots=True)
class BoxExample:
    """An image, and what is on it by the labels and by detectors."""

    image: Array  # (h,w,3) uint8
    boxes: Mapping[str, tuple[DrawnBox, ...]]  # by "truth", "teacher" and "student"


def class_precisions(run: RunData, rows: Sequence[Row]) -> dict[str, npt.NDArray[np.float64]]:
    """(C,) AP by row, the mean over its seeds, the teacher's under "/teacher"; NaN of classes without boxes."""
    found = {}
    for row in rows:
        by_seed = [_matches(run, f"{row.name}/{seed.seed}") for seed in row.seeds]
        whole = [_by_class(one) for one in by_seed if one is not None]
        if whole and len(whole) == len(by_seed):
            found[row.name] = np.mean(whole, axis=0)
    if (teacher := _matches(run, "teacher")) is not None:
        found["/teacher"] = _by_class(teacher)
    return found


def num_boxes(run: RunData) -> Array | None:
    """(C,) boxes of each class in the headline's split, no crowds; None where that is not known."""
    matches = _any_matches(run)
    if matches is None:
        return None
    return np.bincount(matches.box_label[matches.box_counts[:, 0]], minlength=matches.num_classes)


def num_by_size(run: RunData) -> dict[str, int]:
    """Boxes that are small, medium and large, as COCO has it; empty where that is not known."""
    matches = _any_matches(run)
    if matches is None:
        return {}
    return {name: int(matches.box_counts[:, place].sum()) for place, name in enumerate(AREAS) if place}


def box_examples(run: RunData) -> tuple[BoxExample, ...]:
    """The images that were kept, with the boxes that count for F1 at its best; those of strange shape left out."""
    best = run.results.best_row
    student = None if best is None or not best.seeds else _matches(run, f"{best.name}/{best.seeds[0].seed}")
    if student is None:
        return ()
    models = {"student": student, "teacher": _matches(run, "teacher")}
    found = []
    for number in range(MOST_EXAMPLES):
        image, index, scale = (run.tensors.get(f"examples/{what}/{number}") for what in ("image", "index", "scale"))
        if image is None or index is None or scale is None or not _is_sound(image, index, scale, student.num_images):
            continue
        factors = np.asarray(scale, dtype=np.float64)[[1, 0, 1, 0]]
        boxes = {"truth": _truth(student, int(index), factors)}
        boxes |= {name: _said(one, int(index), factors) for name, one in models.items() if one is not None}
        found.append(BoxExample(np.moveaxis(image, 0, -1), boxes))
    return tuple(found)


def _is_sound(image: Array, index: Array, scale: Array, num_images: int) -> bool:
    is_image = image.dtype == np.uint8 and image.ndim == 3 and image.shape[0] == 3 and 0 not in image.shape
    is_place = index.ndim == 0 and index.dtype.kind in "iu" and 0 <= int(index) < num_images
    is_scale = scale.shape == (2,) and scale.dtype.kind == "f" and bool(np.isfinite(scale).all())
    return is_image and is_place and is_scale and max(image.shape) <= MOST_SIDE


def _truth(matches: Matches, image: int, factors: Array) -> tuple[DrawnBox, ...]:
    places = np.flatnonzero((matches.box_image == image) & matches.box_counts[:, 0])[:MOST_BOXES]
    return tuple(_drawn(matches.box_corners[i] * factors, matches.box_label[i], "true") for i in places)


def _said(matches: Matches, image: int, factors: Array) -> tuple[DrawnBox, ...]:
    """Detections that are sure enough, and the boxes that none of them finds."""
    least = best_score(matches)
    is_said = (matches.image == image) & (matches.score >= least) & ~matches.is_ignored[:, 0, 0]
    said = [
        _drawn(matches.corners[i] * factors, matches.label[i], "right" if matches.is_right[i, 0, 0] else "wrong")
        for i in np.flatnonzero(is_said)[:MOST_BOXES]
    ]
    is_missed = (matches.box_image == image) & matches.box_counts[:, 0] & (matches.box_score < least)
    missed = np.flatnonzero(is_missed)[:MOST_BOXES]
    return (*[_drawn(matches.box_corners[i] * factors, matches.box_label[i], "missed") for i in missed], *said)


def _drawn(corners: Array, label: Any, kind: Literal["true", "right", "wrong", "missed"]) -> DrawnBox:
    x1, y1, x2, y2 = (float(side) for side in corners)
    return DrawnBox((x1, y1, x2, y2), int(label), kind)


def _by_class(matches: Matches) -> npt.NDArray[np.float64]:
    by_class = box_scores(matches).by_class
    return np.where(by_class < 0, np.nan, 100 * by_class)


def _any_matches(run: RunData) -> Matches | None:
    best = run.results.best_row
    return None if best is None or not best.seeds else _matches(run, f"{best.name}/{best.seeds[0].seed}")


def _matches(run: RunData, of: str) -> Matches | None:
    matches = match_list(run.tensors, split=run.results.split, of=of)
    return matches if matches is not None and matches.num_classes == run.results.data.num_classes else None
