"""What segmenters say pixel by pixel beside their teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from understudy.core.batch import Batch
from understudy.runs.analyses.base import Analysis, Found, Piece, register_analysis
from understudy.runs.analyses.opened import TEACHER, Opened
from understudy.tasks.iou import class_counts, class_iou
from understudy.tasks.pixel_views import classes_at_size

__all__ = ["PIXELS"]

SPLIT = "val"


def _pieces(opened: Opened) -> Iterable[Piece]:
    for row in opened.rows:
        yield Piece(row, 2.0, row, partial(_pixels, opened, row))


def _pixels(opened: Opened, row: str) -> Found:
    """On labelled pixels: how many have the teacher's class, and of those that it gets right or wrong."""
    num_classes = opened.results.data.num_classes
    pixels = torch.zeros(2, 3, dtype=torch.int64)  # teacher wrong, right; labelled, alike, the student is right
    between = torch.zeros(num_classes, 3, dtype=torch.int64)
    for ours, theirs, labels in _looked(opened, row):
        known = (labels >= 0) & (labels < num_classes)
        for is_right in (0, 1):
            here = known & ((theirs == labels) == bool(is_right))
            for place, which in enumerate((here, here & (ours == theirs), here & (ours == labels))):
                pixels[is_right, place] += torch.count_nonzero(which)
        between += class_counts(ours, torch.where(known, theirs, -1), num_classes)[0]
    wrong, right = pixels.tolist()
    labelled = wrong[0] + right[0]
    return Found(
        {
            "num_pixels": labelled,
            "num_wrong": wrong[0],
            "agreement": _share(wrong[1] + right[1], labelled),
            "agreement_where_right": _share(right[1], right[0]),
            "agreement_where_wrong": _share(wrong[1], wrong[0]),
            "right_where_wrong": _share(wrong[2], wrong[0]),
            "iou_with_teacher": [None if value.isnan() else 100 * value.item() for value in class_iou(between)],
        }
    )


def _share(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _looked(opened: Opened, row: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(1,H,W) classes of the student, of the teacher, and of the masks (255 and others: none), image by image."""
    settings = opened.recipe.segmentation
    for batch in opened.batches(SPLIT):
        said = []
        for name in (row, TEACHER):
            logits = settings.seen(partial(opened.dense_logits, name), batch.images.to(opened.device))
            said.append(classes_at_size(logits, batch.targets.shape[1:], align_corners=settings.align_corners))
        for parts in zip(*(torch.split(one.cpu(), 1) for one in (*said, _labels(batch))), strict=True):
            yield parts[0], parts[1], parts[2]


def _labels(batch: Batch) -> Tensor:
    labels: Tensor = batch.targets.long()
    return labels


PIXELS = register_analysis(
    Analysis(
        "pixels", "pixels beside the teacher", 20, SPLIT, lambda opened: opened.teacher_problem, lambda _: {},
        _pieces, tasks=frozenset({"segmentation"}),
    )
)  # fmt: skip
