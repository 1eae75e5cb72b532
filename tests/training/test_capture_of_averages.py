"""Averages of weights as part of a captured step: what a replay averages is what a step averages, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.captured_steps import captured, data, plain, specs_of, trainer_of
from helpers.engine import CPU
from helpers.states import differing, flat, tensors_of
from understudy import Trainer
from understudy.optim.ema import Averaging, WeightAverage
from understudy.optim.schedule import Schedule

KINDS = {
    "plain": Averaging(decay=0.9),
    "later": Averaging(decay=0.8, after_steps=6),
    "warmup": Averaging(decay=0.8, warmup=True),
    "warmup later": Averaging(decay=0.999, after_steps=5, warmup=True, warmup_power=0.75),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))


def made(kind: str, rows: tuple[str, ...] = ("kd", "kd+dot"), **options: Any) -> Trainer:
    return trainer_of(specs_of(list(rows), ema=KINDS[kind], schedule=Schedule(name="constant"), **options))


def ends(trainer: Trainer) -> dict[str, Any]:
    """Weights and averages of all students, and what was logged."""
    found: dict[str, Any] = {"history": trainer.history}
    for student in trainer.students:
        assert student.average is not None
        found |= {f"{student.name}{name}": value for name, value in tensors_of(student).items()}
        found |= flat(student.average.state_dict(), f"{student.name}/average")
    return found


@kinds
def test_replayed_averages_are_those_of_steps_as_they_come(kind: str) -> None:
    timms, uncaptured, replayed = made(kind), plain(made(kind)), made(kind)
    for student in timms.students:
        student.update.prepare_capture(CPU)  # and not its average
    steps = captured(replayed)
    for trainer in (timms, uncaptured, replayed):
        trainer.fit(data(), epochs=2)
    assert steps.problem is None
    assert steps.num_replays > 8
    # A decay of its own at each step is read from the device; else a change has the step recorded anew.
    assert steps.num_recordings == (2 if kind == "later" else 1)
    assert differing(ends(timms), ends(uncaptured)) == []
    assert differing(ends(uncaptured), ends(replayed)) == []


def test_a_replay_takes_the_weights_into_the_average_by_itself() -> None:
    trainer = made("warmup", ("kd",))
    captured(trainer)
    trainer.fit(data(), epochs=1)
    (student,) = trainer.students
    assert student.average is not None

    def last() -> Tensor:
        assert student.average is not None
        return student.average.module.fc.weight.detach().clone()

    student.finish_step()  # counts, and averages nothing
    before = last()
    student.begin_step(progress=0.5, epochs=1)
    trainer._captured._recording.replay()
    assert not torch.equal(last(), before)


@kinds
def test_a_resumed_average_goes_on_bit_for_bit(kind: str) -> None:
    whole, first, second = made(kind), made(kind), made(kind)
    for trainer in (whole, first, second):
        captured(trainer)
    whole.fit(data(), epochs=3)
    first.fit(data(), epochs=2)
    second.load_state_dict(first.state_dict())
    second.fit(data(), epochs=3)
    assert differing(ends(whole), ends(second)) == []


def test_an_averaged_row_of_several_is_the_row_alone() -> None:
    together, alone = made("warmup"), made("warmup", ("kd+dot",))
    for trainer in (together, alone):
        captured(trainer)
        trainer.fit(data(), epochs=2)
    of_row = {name: value for name, value in ends(together).items() if name.startswith("kd+dot")}
    expected = {name: value for name, value in ends(alone).items() if name.startswith("kd+dot")}
    assert differing(of_row, expected) == []


def test_several_passes_of_a_step_are_averaged_once() -> None:
    trainer = made("plain", ("kd",), accumulate=2)
    (student,) = trainer.students
    before = student.model.module.fc.weight.detach().clone()
    trainer.fit(data()[:1], epochs=1)
    expected = 0.9 * before + 0.1 * student.model.module.fc.weight
    torch.testing.assert_close(student.deployed().fc.weight, expected)


def test_weights_in_half_are_averaged_outside_of_what_is_replayed() -> None:
    """They are rounded by chance, from a generator that no recording is told of."""
    both = []
    for take in (plain, captured):
        trainer = made("warmup", ("kd",))
        (student,) = trainer.students
        student.average = WeightAverage(copy.deepcopy(student.model.module).bfloat16(), KINDS["warmup"])
        take(trainer)
        trainer.fit(data(), epochs=2)
        both.append(trainer)
    assert both[1]._captured.num_replays > 8
    assert both[1].students[0].deployed().fc.weight.dtype == torch.bfloat16
    assert differing(ends(both[0]), ends(both[1])) == []
