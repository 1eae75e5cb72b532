"""Captured steps: replays of one recording equal steps that Python goes through, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.engine import CLASSES, CPU, SmallNet, batches, small_net, small_teacher, spec_of
from helpers.recorded_ops import recorded_ops
from helpers.states import tensors_of
from understudy import Trainer, UserError, methods
from understudy.optim.ema import Averaging
from understudy.optim.schedule import Schedule
from understudy.tasks import Classification
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.capture import CapturedSteps, PlainSteps
from understudy.training.spec import StudentSpec


def trainer_of(specs: list[StudentSpec], **options: Any) -> Trainer:
    teacher = small_teacher()
    tap_teacher(teacher, [config for spec in specs for config in spec.methods])
    around = BuildContext(
        task=Classification(CLASSES), num_classes=CLASSES, sample=batches()[0].images, teacher=teacher,
        train_labels=torch.arange(1000) % CLASSES,
    )  # fmt: skip
    return Trainer([build_student(spec, around) for spec in specs], teacher=teacher, device=CPU, log_every=4, **options)


def specs_of(rows: list[str], **options: Any) -> list[StudentSpec]:
    return [
        StudentSpec(small_net(3), method=spec.method, update=spec.update, name=spec.name, **options)
        for spec in (spec_of(row, dropout=0.0) for row in rows)
    ]


def captured(trainer: Trainer, *, must: bool = True, say: Callable[[str], None] = print) -> CapturedSteps:
    """Its steps from here on, recorded and replayed as on a GPU."""
    for student in trainer.students:
        student.update.prepare_capture(CPU)
    steps = trainer._captured = CapturedSteps(trainer, record=recorded_ops, must=must, say=say)
    return steps


def plain(trainer: Trainer) -> Trainer:
    """Its steps as they come, with the same numbers on the device."""
    for student in trainer.students:
        student.update.prepare_capture(CPU)
    return trainer


def data(steps: int = 9) -> list[tuple[Tensor, Tensor]]:
    return [(batch.images, batch.targets) for batch in batches(steps, last=5)]


def assert_equal(one: Trainer, other: Trainer) -> None:
    for ours, theirs in zip(one.students, other.students, strict=True):
        for name, value in tensors_of(ours).items():
            assert torch.equal(tensors_of(theirs)[name], value), f"{ours.name}: {name}"
    assert one.history == other.history


@pytest.mark.parametrize("rows", [["alone", "kd"], ["kd+dot"], ["dist", "projector", "kd+dot"]])
def test_replayed_steps_are_the_steps_themselves(rows: list[str]) -> None:
    falling = Schedule(name="cosine", warmup_epochs=1)
    ends = []
    for take in (plain, captured):
        trainer = trainer_of(specs_of(rows, schedule=falling, ema=Averaging(decay=0.9)))
        steps = take(trainer)
        trainer.fit(data(), epochs=3)
        ends.append(trainer)
    assert steps.problem is None
    # Of 27 steps three are taken first and one is recorded; the last of each epoch has another size.
    assert (steps.num_recordings, steps.num_replays) == (1, 27 - 3 - 1 - 3)
    assert_equal(*ends)


@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
@pytest.mark.parametrize("row", ["kd", "kd+dot"])
def test_they_are_with_other_optimizers_too(row: str, optimizer: str) -> None:
    ends = []
    for take in (plain, captured):
        (spec,) = specs_of([row])
        update = type(spec.update)(optimizer=optimizer, lr=0.01, clip_norm=1.0)
        trainer = trainer_of([StudentSpec(spec.model, method=spec.method, update=update, name=row)])
        take(trainer)
        trainer.fit(data(), epochs=2)
        ends.append(trainer)
    assert ends[1]._captured.num_replays > 8
    assert_equal(*ends)


def test_a_weight_that_rises_by_epochs_has_the_step_recorded_anew() -> None:
    ends = []
    for take in (plain, captured):
        trainer = trainer_of([StudentSpec(small_net(3), method=methods.DKD.Config(warmup_epochs=2), name="dkd")])
        take(trainer)
        trainer.fit(data(), epochs=3)
        ends.append(trainer)
    assert ends[1]._captured.num_recordings == 2
    assert_equal(*ends)


def test_a_run_that_was_resumed_goes_on_bit_for_bit() -> None:
    rows, constant = ["kd", "kd+dot"], Schedule(name="constant")
    whole, first, second = (trainer_of(specs_of(rows, schedule=constant)) for _ in range(3))
    for trainer in (whole, first, second):
        captured(trainer)
    whole.fit(data(), epochs=3)
    first.fit(data(), epochs=2)
    second.fit(data(), epochs=1)  # has recorded steps on tensors that the state replaces
    second.load_state_dict(first.state_dict())
    second.fit(data(), epochs=3)
    for ours, theirs in zip(whole.students, second.students, strict=True):
        for name, value in tensors_of(ours).items():
            assert torch.equal(tensors_of(theirs)[name], value), name


def test_a_step_that_draws_random_numbers_is_taken_as_it_comes_and_says_so() -> None:
    said: list[str] = []
    trainer = trainer_of([StudentSpec(small_net(3, dropout=0.5), method=methods.KD.Config(), name="kd")])
    steps = captured(trainer, must=False, say=said.append)
    trainer.fit(data(), epochs=1)
    assert steps.num_recordings == 0
    assert said == [
        "steps are not captured as a CUDA graph: kd draws random numbers in its step (dropout, drop path, negatives)"
    ]


class ReadingNet(SmallNet):
    """Reads a number from the device on its way."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (1.0 if float(images.mean()) < 2 else 0.5)


def test_a_step_that_cannot_be_recorded_is_taken_as_it_comes_and_leaves_no_trace() -> None:
    said: list[str] = []
    ends = []
    for take in (plain, lambda t: captured(t, must=False, say=said.append)):
        specs = specs_of(["kd+dot"])
        reading = ReadingNet()
        reading.load_state_dict(small_net(3).state_dict())
        trainer = trainer_of([*specs, StudentSpec(reading, method=methods.KD.Config(), name="reading")])
        take(trainer)
        trainer.fit(data(), epochs=2)
        ends.append(trainer)
    assert len(said) == 1
    assert "not permitted when stream is capturing" in said[0]
    # Here, unlike on a GPU, what came before the obstacle has been done; so only the counts are compared.
    steps = [trainer.students[0].update.param_groups[0]["steps"] for trainer in ends]
    assert steps[0] == steps[1]


def test_what_must_be_captured_and_cannot_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="capture: true cannot be: the device is cpu, and only CUDA has graphs"):
        trainer_of(specs_of(["kd"]), capture=True)


def test_a_machine_without_cuda_takes_steps_as_they_come() -> None:
    assert isinstance(trainer_of(specs_of(["kd"]))._captured, PlainSteps)
