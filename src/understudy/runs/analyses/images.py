"""Which images of a split are analysed, and how they are shown to the networks of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.data import eval_loader
from understudy.data.sources.base import Source, rows_of
from understudy.recipes.schema import Recipe
from understudy.runs.evaluate import Images
from understudy.runs.folder import RunFolder
from understudy.runs.reopen import image_sizes
from understudy.utils.errors import UserError

__all__ = ["Shown", "labelled_places", "shown_of", "split_of"]


@dataclass(frozen=True)
class Shown:
    """N images, as each network takes them, with their labels."""

    images: Tensor  # (N,D,H,W) in [0,1], the student's; empty of images with boxes, which are read when wanted
    teacher_images: Tensor  # the teacher's; the same tensor where it sees the same
    labels: Tensor  # (N,)
    numbers: Tensor  # (N,) places in the split

    def __len__(self) -> int:
        return len(self.labels)


def split_of(images: Images, split: str) -> Source:
    """A split of the images.

    Raises:
        UserError: there is none.
    """
    source = images.splits.get(split)
    if source is None:
        raise UserError(f"{images.data.name} has no {split} split")
    return source


def labelled_places(images: Images, split: str, most: int) -> Tensor:
    """(N,) places of at most so many labelled images of a split, evenly spread over it.

    Raises:
        UserError: none has a label.
    """
    labelled = (split_of(images, split).labels >= 0).nonzero().flatten()
    if not len(labelled):
        raise UserError(f"none of the {split} images of {images.data.name} has a label")
    return labelled[torch.linspace(0, len(labelled) - 1, min(most, len(labelled))).round().long()]


def shown_of(images: Images, split: str, most: int, run: RunFolder, recipe: Recipe) -> Shown:
    """At most so many labelled images of a split, as the networks of a run take them.

    Raises:
        UserError: there are none.
    """
    source, numbers = split_of(images, split), labelled_places(images, split, most)
    if recipe.task == "detection":  # whose sizes differ: see `Opened.images`
        return Shown(torch.empty(0), torch.empty(0), source.labels[numbers], numbers)
    student_size, teacher_size = image_sizes(run)
    loader = eval_loader(
        rows_of(source, numbers),
        recipe.data,
        image_size=student_size,
        teacher_size=None if teacher_size == student_size else teacher_size,
    )
    batches = list(loader)
    pixels = torch.cat([batch.images for batch in batches])
    teacher = [batch.images if batch.teacher_images is None else batch.teacher_images for batch in batches]
    seen_alike = all(batch.teacher_images is None for batch in batches)
    labels = torch.cat([batch.targets for batch in batches])
    return Shown(pixels, pixels if seen_alike else torch.cat(teacher), labels, numbers[: len(labels)])
