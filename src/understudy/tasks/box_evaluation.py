"""By what detectors are scored, and what is kept of a score: match lists, of which AP follows for any weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections
from understudy.distributed.world import World
from understudy.tasks.base import Evaluation, Metric
from understudy.tasks.box_ap import box_scores
from understudy.tasks.box_found import found_boxes
from understudy.tasks.box_matches import ARRAYS, Matches, matched
from understudy.utils.errors import UserError
from understudy.utils.text import plural

__all__ = ["METRICS", "BoxEvaluation", "BoxMatches"]

_COCO_NAMES = {  # by ours
    "ap": "AP", "ap50": "AP50", "ap75": "AP75",
    "ap_small": "AP_small", "ap_medium": "AP_medium", "ap_large": "AP_large",
    "ar100": "AR_100",
}  # fmt: skip
METRICS = (
    Metric("ap", "AP", "points"),  # COCO's: the mean over ten overlaps and over classes
    Metric("ap50", "AP50", "points"),
    Metric("ap75", "AP75", "points"),
    Metric("ap_small", "AP small", "points"),  # of objects below 32 x 32 pixels; left out where there are none
    Metric("ap_medium", "AP medium", "points"),
    Metric("ap_large", "AP large", "points"),  # above 96 x 96
    Metric("ar100", "AR", "points"),  # the share of boxes that are found, with 100 detections an image
)


@dataclass(frozen=True, slots=True)
class BoxEvaluation(Evaluation):
    """Scores of one detector on one split, and what each of its detections found."""

    matches: Matches = field(repr=False)

    @classmethod
    def of(cls, matches: Matches) -> Self:
        """The evaluation of match lists. Scores of sizes of which there is no object are left out."""
        found = box_scores(matches).scores
        scores = {ours: round(100 * found[theirs], 4) for ours, theirs in _COCO_NAMES.items() if found[theirs] >= 0}
        return cls(scores, _found_by_image(matches), matches)

    @property
    def by_class(self) -> Tensor:
        """(C,) AP in percent; NaN where a class has no box."""
        by_class = torch.from_numpy(box_scores(self.matches).by_class)
        return torch.where(by_class < 0, torch.nan, 100 * by_class)

    def agreement_with(self, other: Evaluation) -> float | None:
        """Percentage of the boxes that the other (the teacher) finds which are found here, too."""
        if not isinstance(other, BoxEvaluation) or len(other.matches.box_image) != len(self.matches.box_image):
            return None
        theirs = found_boxes(other.matches)
        if not theirs.any():
            return None
        return float(100 * (found_boxes(self.matches) & theirs).sum() / theirs.sum())

    def classes_in_words(self, names: Sequence[str]) -> list[str]:
        """'AP of disc 29.90 points (84 boxes)', of each class that has a box."""
        counts = np.bincount(
            self.matches.box_label[self.matches.box_counts[:, 0]], minlength=self.matches.num_classes
        ).tolist()
        rows = zip(names, self.by_class.tolist(), counts, strict=True)
        said = [(name, f"{ap:.2f}", plural(count, "box", "boxes")) for name, ap, count in rows if count]
        width, digits = max(len(name) for name, _, _ in said), max(len(ap) for _, ap, _ in said)
        return [f"AP of {name:<{width}}  {ap:>{digits}} points  ({boxes})" for name, ap, boxes in said]

    def tensors(self) -> dict[str, Tensor]:
        """The match lists: every score follows from them."""
        counts = {"num_images": self.matches.num_images, "num_classes": self.matches.num_classes}
        arrays = {name: torch.from_numpy(getattr(self.matches, name)) for name in ARRAYS}
        return {**arrays, **{name: torch.tensor(value) for name, value in counts.items()}}

    def kept_as(self, split: str, of: str) -> dict[str, Tensor]:
        """The match lists."""
        return {f"matches.{name}/{split}/{of}": tensor.contiguous() for name, tensor in self.tensors().items()}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The evaluation of which `tensors` are kept."""
        arrays = {name: tensors[name].numpy() for name in ARRAYS}
        counts = {name: int(tensors[name]) for name in ("num_images", "num_classes")}
        return cls.of(Matches(**arrays, **counts))  # type: ignore[arg-type]


def _found_by_image(matches: Matches) -> Tensor:
    """(N,) percentage of an image's boxes that are found at an overlap of 0.5; 100 where it has none."""
    there = np.bincount(matches.box_image, weights=matches.box_counts[:, 0], minlength=matches.num_images)
    right = np.bincount(matches.image, weights=matches.is_right[:, 0, 0], minlength=matches.num_images)
    return torch.from_numpy(np.where(there > 0, 100 * right / np.maximum(there, 1), 100.0))


class BoxMatches:
    """Running match lists of one model.

    Args:
        num_classes: C.
        world: the processes, each with its own images.
    """

    def __init__(self, num_classes: int, world: World) -> None:
        self.num_classes, self.world = num_classes, world
        self.parts: list[Matches] = []

    def add(self, found: list[Detections], boxes: Boxes) -> None:
        """Lay what was found on a batch beside its boxes, in pixels of the files."""
        in_files = [
            Detections(boxes.in_files(one.boxes, image), one.scores, one.labels) for image, one in enumerate(found)
        ]
        scale = boxes.scale[boxes.image].to(boxes.boxes.dtype)  # (G,2) rows, columns
        there = boxes.boxes / scale[:, [1, 0, 1, 0]]
        self.parts.append(matched(in_files, boxes.with_boxes(there), self.num_classes))

    def read(self) -> BoxEvaluation:
        """The evaluation of all images of all processes.

        Raises:
            UserError: there are none, or none of them has a box.
        """
        parts = [part for parts in self.world.gather_objects(self.parts) for part in parts]
        if not parts:
            raise UserError("there are no images to evaluate on")
        matches = Matches.joined(parts)
        if not matches.box_counts[:, 0].any():
            raise UserError("no image to evaluate on has a box: average precision is of boxes that are there")
        return BoxEvaluation.of(matches)
