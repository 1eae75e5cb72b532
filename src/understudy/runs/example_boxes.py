"""A few images with boxes that people look at: those on which the student lost most against its teacher."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from understudy.data import DataSplits, Source
from understudy.data.sources.decoding import BadImageError
from understudy.results.matches import match_list
from understudy.results.schema import Results
from understudy.tasks.box_found import best_score, found_boxes
from understudy.tasks.box_matches import Matches

__all__ = ["COUNT", "example_images", "most_lost"]

COUNT = 6
LONGEST = 320  # pixels of what is kept


def example_images(tensors: Mapping[str, Tensor], results: Results, data: DataSplits) -> dict[str, Tensor]:
    """Small copies of the images to look at, by key of predictions.safetensors; nothing of other tasks.

    "examples/image/0" is (3,h,w) uint8, "examples/index/0" its place in the split of the headline, and
    "examples/scale/0" (2,) rows and columns for one of the file. Boxes on them are in the match lists.

    Args:
        tensors: what predictions.safetensors holds.
        results: of the run, whose best row is looked at under its first seed.
        data: which the images are taken from.
    """
    best, split = results.best_row, results.split
    source = data.test if split == "test" else data.val
    if best is None or source is None or not best.seeds:
        return {}
    student = match_list(tensors, split=split, of=f"{best.name}/{best.seeds[0].seed}")
    if student is None or student.num_images != len(source):  # some could not be read: places are not known
        return {}
    kept: dict[str, Tensor] = {}
    count = 0
    for place in most_lost(student, match_list(tensors, split=split, of="teacher")).tolist():
        if count < COUNT and (image := _image(source, place)) is not None:
            height, width = image.shape[1:]
            share = min(1.0, LONGEST / max(height, width))
            size = [max(1, round(height * share)), max(1, round(width * share))]
            small = image if share == 1 else resize(image, size, antialias=True)
            kept[f"examples/image/{count}"] = small.contiguous()
            kept[f"examples/index/{count}"] = torch.tensor(place)
            kept[f"examples/scale/{count}"] = torch.tensor([size[0] / height, size[1] / width], dtype=torch.float64)
            count += 1
    return kept


def most_lost(student: Matches, teacher: Matches | None) -> npt.NDArray[np.int64]:
    """Numbers of all images, first those with most boxes that the teacher finds and the student does not.

    What the student finds and the teacher does not counts against that; of images alike, first those with most wrong
    detections. Without a teacher, first those with most boxes that are not found.
    """
    found = found_boxes(student).astype(np.int64)
    is_known = teacher is not None and len(teacher.box_image) == len(found)
    known = found_boxes(teacher) if teacher is not None and is_known else student.box_counts[:, 0]
    lost = np.bincount(student.box_image, weights=known - found, minlength=student.num_images)
    is_wrong = ~(student.is_right | student.is_ignored)[:, 0, 0] & (student.score >= best_score(student))
    wrong = np.bincount(student.image[is_wrong], minlength=student.num_images)
    return np.lexsort((np.arange(student.num_images), -wrong, -lost)).astype(np.int64)


def _image(source: Source, place: int) -> Tensor | None:
    """(3,h,w) uint8; None where it cannot be read."""
    try:
        image = source.image(place)
    except (BadImageError, OSError):
        return None
    return image if image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3 else None
