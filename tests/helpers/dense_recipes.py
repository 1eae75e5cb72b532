"""Small recipes of segmentation and detection, and runs of them whose samplers do not draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from helpers.displays import Eventful, press_ctrl_c
from helpers.engine import run_recipe
from helpers.small_detector import small_faster_rcnn
from understudy import Recipe
from understudy.recipes.schema import merged
from understudy.utils.interrupted import Interrupted

DenseTask = Literal["segmentation", "detection"]
TASKS: tuple[DenseTask, ...] = ("segmentation", "detection")

# Of each image as many boxes are sampled, so that a mean over boxes is one over images.
DETECTOR = small_faster_rcnn(proposals=32, frozen_norms=True, rpn_batch_size_per_image=64)
SEGMENTER = {"model": "helpers.row_wise_networks:segmenter", "weights": "none"}
# Ten training images in steps of four, four and two; three of validation. Batch norms stand still or are absent.
DENSE: dict[DenseTask, dict[str, Any]] = {
    "detection": {
        "task": "detection",
        "data": {"root": "boxes-of-shapes", "shorter_sides": [48, 64], "batch_size": 4},
        "student": DETECTOR,
        "teacher": {**DETECTOR, "allow_weak": True},
        "update": {"lr": 0.001},  # norms that stand still keep no loss from growing
    },
    "segmentation": {
        "data": {"root": "shapes", "image_size": 48, "batch_size": 4},
        "student": SEGMENTER,
        "teacher": {**SEGMENTER, "allow_weak": True},
    },
}
SHARED: dict[str, Any] = {
    "data": {"train_rows": "0:10", "val_rows": "100:103", "workers": 0},
    "method": "none",
    "update": {"lr": 0.01},
    "epochs": 2,
    "log_every": 1,
    "seeds": [0],
    "threads": 1,
    "device": "cpu",
}


def dense_recipe(task: DenseTask, over: Mapping[str, Any] | None = None) -> Recipe:
    """A small recipe of the task with these settings laid on it."""
    return Recipe.read(merged(merged(SHARED, DENSE[task]), over or {}), what="the test's recipe")


def run_dense(task: DenseTask, over: Mapping[str, Any], out: Path, *, stop_after: int | None = None) -> str | None:
    """Run, or go on, as many processes as there are, with samplers that take the first; what an early end is called."""
    display = None if stop_after is None else Eventful(1, stop_after, press_ctrl_c)
    with first_of_all():
        try:
            run_recipe(dense_recipe(task, over), out, display=display, allow_code=True)
        except Interrupted as stop:
            return str(stop)
    return None


@contextmanager
def first_of_all() -> Iterator[None]:
    """Within it, a detector's samplers take the first boxes instead of any, whatever process they are in."""
    drawn = torch.randperm

    def in_order(count: int, *arguments: Any, device: Any = None, **others: Any) -> Tensor:
        if others or arguments:
            return drawn(count, *arguments, device=device, **others)
        return torch.arange(count, device=device)

    torch.randperm = in_order
    try:
        yield
    finally:
        torch.randperm = drawn
