"""Captured steps in float16: what the scaler skips is skipped on the device, and counted nowhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers.captured_steps import captured, data, plain, specs_of, trainer_of
from helpers.states import differing, tensors_of
from understudy import Joint, Trainer
from understudy.optim import UPDATES
from understudy.optim.ema import Averaging
from understudy.optim.schedule import Schedule
from understudy.training.capture import CapturedSteps


def trainer_in_half(optimizer: str, *, clip_norm: float | None = None, row: str = "kd", **options: Any) -> Trainer:
    """Its scale rises every other step, until gradients overflow."""
    (spec,) = specs_of([row], precision="float16", schedule=Schedule(name="constant"), **options)
    # A rate that has few digits: the device's has 24 bits, Python's more.
    update = type(spec.update)(optimizer=optimizer, lr=2**-7, clip_norm=clip_norm)
    trainer = trainer_of([replace(spec, update=update)])
    trainer.students[0].scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=2)
    return trainer


def scales_of(trainer: Trainer, epochs: int) -> list[float]:
    """Of every epoch's end."""
    scales = []
    for epoch in range(epochs):
        trainer.fit(data(), epochs=epoch + 1)
        assert trainer.students[0].scaler is not None
        scales.append(trainer.students[0].scaler.get_scale())
    return scales


@pytest.mark.parametrize(("optimizer", "clip_norm"), [("sgd", None), ("nesterov", 1.0), ("adamw", 1.0)])
def test_replays_skip_what_steps_skip(optimizer: str, clip_norm: float | None) -> None:
    read, there, replayed = (trainer_in_half(optimizer, clip_norm=clip_norm) for _ in range(3))
    plain(there)
    steps = captured(replayed)
    scales = [scales_of(trainer, 3) for trainer in (read, there, replayed)]
    assert steps.problem is None
    assert (steps.num_recordings, steps.num_replays) == (1, 27 - 3 - 1 - 3)
    assert scales[0] == scales[1] == scales[2]
    assert min(scales[0]) < 2.0**24  # steps were skipped
    for other in (there, replayed):
        assert differing(tensors_of(read.students[0]), tensors_of(other.students[0])) == []
        assert read.history == other.history


@pytest.mark.parametrize("row", ["kd", "kd+dot"])
def test_they_do_so_in_several_passes_and_with_averages(row: str) -> None:
    there, replayed = (trainer_in_half("sgd", row=row, accumulate=2, ema=Averaging(decay=0.9)) for _ in range(2))
    plain(there)
    steps = captured(replayed)
    scales = [scales_of(trainer, 2) for trainer in (there, replayed)]
    assert (steps.problem, steps.num_recordings, steps.num_replays) == (None, 1, 18 - 3 - 1 - 2)
    assert scales[0] == scales[1]
    assert min(scales[0]) < 2.0**24
    assert differing(tensors_of(there.students[0]), tensors_of(replayed.students[0])) == []
    assert there.history == replayed.history


@pytest.mark.parametrize(("optimizer", "clip_norm"), [("sgd", None), ("nesterov", 1.0)])
def test_so_does_dot(optimizer: str, clip_norm: float | None) -> None:
    """By torch's fused kernel, once for each loss, which rounds elsewhere than DOT's own rule."""
    read, there, replayed = (trainer_in_half(optimizer, clip_norm=clip_norm, row="kd+dot") for _ in range(3))
    plain(there)
    steps = captured(replayed)
    scales = [scales_of(trainer, 3) for trainer in (read, there, replayed)]
    assert (steps.problem, steps.num_recordings, steps.num_replays) == (None, 1, 27 - 3 - 1 - 3)
    assert scales[0] == scales[1] == scales[2]
    assert min(scales[0]) < 2.0**24  # steps were skipped
    assert differing(tensors_of(there.students[0]), tensors_of(replayed.students[0])) == []
    assert there.history == replayed.history
    for name, value in tensors_of(read.students[0]).items():
        torch.testing.assert_close(tensors_of(there.students[0])[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_recording_that_fails_leaves_the_scaler_as_it_was() -> None:
    said: list[str] = []
    ends = []

    def fails(step: object, drawn_from: object) -> None:
        student = trainer.students[0]
        assert student.scaler is not None
        student.scaler.unscale_(student.update.optimizer)
        raise RuntimeError("no graph of this")

    for record in (None, fails):
        trainer = trainer_in_half("sgd", clip_norm=1.0)
        plain(trainer)
        if record is not None:
            trainer._captured = CapturedSteps(trainer, record=record, must=False, say=said.append)
        ends.append((scales_of(trainer, 2), tensors_of(trainer.students[0])))
    assert said == ["steps are not captured as a CUDA graph: no graph of this"]
    assert ends[0][0] == ends[1][0]
    assert differing(ends[0][1], ends[1][1]) == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"optimizer": "adamw"}, "Python counts the steps of adamw"),
        ({"delta_warmup": 5}, "Python counts steps for delta_warmup"),
        ({"momentum": 0.075}, "the kernel that skips keeps no momentum of 0"),
        ({}, None),
    ],
)
def test_dot_says_what_has_to_know_of_skipped_steps(settings: dict[str, Any], problem: str | None) -> None:
    update = UPDATES["dot"].Config(**settings).build([("weight", torch.nn.Parameter(torch.zeros(1)))])
    assert update.skip_problem() == problem


def test_dampening_asks_which_step_is_the_first() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    update = Joint(torch.optim.SGD([weight], lr=0.1, momentum=0.9, dampening=0.1, fused=True))
    assert update.skip_problem() == "dampening leaves out the first step that is taken, which only Python knows"
