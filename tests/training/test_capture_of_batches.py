"""Captured steps that make their batches of images on the device: only numbers of samples and draws are copied in."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

import pytest
import torch

from helpers.engine import tiny_recipe
from helpers.recorded_ops import recorded_ops
from helpers.states import differing, tensors_of
from understudy.core.batch import PlannedBatch
from understudy.data.augment.batched_parts import BatchedParts
from understudy.data.augment.config import CropFlip
from understudy.data.augment.crops import crop_flip
from understudy.data.loaders.base import planned_batches
from understudy.data.sources.base import images_in_memory
from understudy.recipes.comparison import rows_of
from understudy.runs.build import build_trainer
from understudy.runs.components import Components, open_components
from understudy.training.capture import CapturedSteps
from understudy.training.trainer import Trainer

CROPS = {"name": "crop_flip", "pad": 2}
STRONG = {"rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4, "erasing": 0.5}
SETTINGS: dict[str, dict[str, Any]] = {
    "crops": {"augment": CROPS},
    "unflipped": {"augment": {**CROPS, "flip": False}},
    "not augmented": {"augment": "none"},
    "pairs": {"augment": CROPS, "copies": "pairs"},
    "rotations": {"augment": CROPS, "copies": "rotations"},
    "repeats": {"augment": CROPS, "repeats": 3},
    "mixed": {"augment": CROPS, "mix": {}, "repeats": 3},
    "enlarged": {"augment": CROPS, "image_size": 12},
    "RandAugment": {"augment": {**CROPS, **STRONG}, "augment_on": "device", "copies": "pairs"},
    "weak and strong": {
        "augment": CROPS,
        "augment_on": "device",
        "copies": "pairs",
        "second_augment": {**CROPS, **STRONG},
    },
    "turned": {"augment": {"name": "rotate_flip", "erasing": 0.25}, "augment_on": "device", "copies": "pairs"},
    "RandAugment of parts": {
        "augment": {"name": "resized_crop", **STRONG, "interpolation": "bicubic"},
        "augment_on": "device",
    },
}


def opened(data: dict[str, Any], rows: list[str], **settings: Any) -> Components:
    recipe = tiny_recipe({"data": data, "rows": rows, "seeds": [0], **settings})
    return open_components(recipe, allow_code=False, say=lambda note: None)


def trained(components: Components, *, is_captured: bool, **options: Any) -> Trainer:
    trainer = build_trainer(components, rows_of(components.recipe), 0)
    for student in trainer.students:
        student.prepare_capture(components.device)
    if is_captured:
        trainer._captured = CapturedSteps(trainer, record=recorded_ops, must=True, say=print)
    trainer.fit(components.train_loader(0), **options)
    return trainer


@pytest.mark.parametrize("name", SETTINGS)
def test_a_planned_batch_is_the_batch(name: str) -> None:
    components = opened(SETTINGS[name], ["alone"])
    loader, again = (components.train_loader(0) for _ in range(2))
    for epoch in (1, 2):
        made = list(loader.epoch(epoch))
        for batch, planned in zip(made, planned_batches(again, epoch), strict=True):
            assert isinstance(planned, PlannedBatch)
            there = planned.to(torch.device("cpu"))
            assert there is planned
            for field in ("images", "targets", "indices", "copies"):
                one, other = getattr(batch, field), getattr(there.made(), field)
                assert one is other is None or torch.equal(one, other), field
            assert planned.view == batch.view == epoch - 1


@pytest.mark.parametrize("name", ["pairs", "rotations"])
def test_rows_that_are_no_copies_are_found_without_reading_the_device(name: str) -> None:
    batch = next(opened(SETTINGS[name], ["alone"]).train_loader(0).epoch(1))
    assert isinstance(batch.plain, slice)
    assert torch.equal(batch.images[batch.plain], batch.images[batch.copies == 0])
    half = batch.select(slice(0, len(batch.images) // 2 + 1))
    assert isinstance(half.plain, torch.Tensor)
    assert torch.equal(half.images[half.plain], batch.images[batch.plain])


@pytest.mark.parametrize("copies", ["none", "pairs"])
def test_its_pixels_are_a_function_of_seed_view_copy_and_number(copies: str) -> None:
    components = opened({"augment": CROPS, "copies": copies}, ["alone"])
    stored = images_in_memory(components.data.train)
    assert stored is not None
    for batch in components.train_loader(3).epoch(2):
        shown = 0 if batch.copies is None else batch.copies
        images = crop_flip(stored[batch.indices], batch.indices, CropFlip(pad=2), seed=3, view=1, copies=shown)
        assert torch.equal(batch.images, images.float() / 255)


@pytest.mark.parametrize("name", ["crops", "rotations"])
def test_replays_make_their_batches(name: str) -> None:
    components = opened({**SETTINGS[name], "batch_size": 12}, ["kd", "kd+dot"])
    plain, captured = (trained(components, is_captured=way, epochs=2) for way in (False, True))
    steps = captured._captured
    assert isinstance(steps, CapturedSteps)
    assert steps._recording is not None
    assert isinstance(steps._recording.batch, PlannedBatch)
    assert (steps.num_recordings, steps.num_replays) == (1, 14 - 3 - 1 - 2)
    for ours, theirs in zip(plain.students, captured.students, strict=True):
        assert differing(tensors_of(ours), tensors_of(theirs)) == []
    assert plain.history == captured.history


@pytest.mark.parametrize("name", ["RandAugment", "RandAugment of parts", "turned", "weak and strong"])
def test_replays_augment_their_batches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: all rows by all operations, of which a recording holds none of what it drew itself."""
    components = opened({**SETTINGS[name], "batch_size": 12}, ["kd"])
    plain = trained(components, is_captured=False, epochs=2)
    monkeypatch.setattr(BatchedParts, "of", partialmethod(BatchedParts.of, in_groups=False))
    captured = trained(components, is_captured=True, epochs=2)
    assert captured._captured.num_replays > 5
    assert differing(tensors_of(plain.students[0]), tensors_of(captured.students[0])) == []
    assert plain.history == captured.history


@pytest.mark.parametrize("settings", [{}, {"mode": "elem", "cutmix": 0.0}, {"mode": "pair", "mixup": 0.0}], ids=str)
def test_replays_mix_their_batches(settings: dict[str, Any]) -> None:
    """What is mixed how is among the keys: of each step anew, and nothing of a drawn number is in the recording."""
    components = opened({"augment": CROPS, "mix": {"prob": 0.8, **settings}, "batch_size": 12}, ["kd"])
    keys = [planned.keys for planned in planned_batches(components.train_loader(0), 1)]
    assert [len(one) for one in keys] == [9 + 1 + 3] * 7  # one small tensor a step
    plain, captured = (trained(components, is_captured=way, epochs=2) for way in (False, True))
    steps = captured._captured
    assert (steps.num_recordings, steps.num_replays) == (1, 14 - 3 - 1 - 2)
    for ours, theirs in zip(plain.students, captured.students, strict=True):
        assert differing(tensors_of(ours), tensors_of(theirs)) == []
    assert plain.history == captured.history
