"""Steps of several passes as one recording: replays of it are the steps themselves, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helpers.captured_steps import captured, data, plain, specs_of, trainer_of
from helpers.engine import small_net
from helpers.states import differing, flat
from understudy import Trainer
from understudy.optim.ema import Averaging
from understudy.optim.schedule import Schedule
from understudy.training.capture import step_problem


def made(rows: list[str], accumulate: int, **options: Any) -> Trainer:
    averaged = {"ema": Averaging(decay=0.9), "schedule": Schedule(name="cosine", warmup_epochs=1)}
    return trainer_of(specs_of(rows, accumulate=accumulate, **averaged, **options))


def ends(trainer: Trainer) -> dict[str, Any]:
    """Everything that a checkpoint holds of the students, and what was logged."""
    return flat(trainer.state_dict()["students"]) | {"history": trainer.history}


ROWS = [["alone", "kd", "kd+dot"], ["dist", "projector"]]


@pytest.mark.parametrize(("rows", "accumulate"), [(ROWS[0], 2), (ROWS[0], 3), (ROWS[1], 2)])  # 3: of 8 images
def test_replayed_steps_of_several_passes_are_the_steps_themselves(rows: list[str], accumulate: int) -> None:
    both = plain(made(rows, accumulate)), made(rows, accumulate)
    steps = captured(both[1])
    for trainer in both:
        trainer.fit(data(), epochs=2)
    assert step_problem(both[1]) is None
    assert (steps.num_recordings, steps.num_replays) == (1, 18 - 3 - 1 - 2)
    assert differing(ends(both[0]), ends(both[1])) == []


def drawing() -> Trainer:
    """Rows that draw in each pass, and clip what all of them add up to."""
    update = {"optimizer": "adamw", "lr": 0.01, "clip_norm": 0.5}
    specs = specs_of(["kd", "kd+dot"], accumulate=2, schedule=Schedule(name="constant"))
    return trainer_of(
        [replace(spec, model=small_net(3, dropout=0.5), update=type(spec.update)(**update)) for spec in specs]
    )


def test_passes_draw_and_are_clipped_as_in_steps_as_they_come() -> None:
    both = plain(drawing()), drawing()
    steps = captured(both[1])
    for trainer in both:
        trainer.fit(data(), epochs=2)
    assert steps.num_replays > 8
    assert differing(ends(both[0]), ends(both[1])) == []


def test_a_resumed_run_of_several_passes_goes_on_bit_for_bit() -> None:
    whole, first, second = drawing(), drawing(), drawing()
    for trainer, epochs in ((whole, 3), (first, 2), (second, 1)):
        captured(trainer)
        trainer.fit(data(), epochs=epochs)
    second.load_state_dict(first.state_dict())
    second.fit(data(), epochs=3)
    assert differing(ends(whole), ends(second)) == []


def test_a_row_of_several_passes_is_the_row_alone() -> None:
    together, alone = made(["alone", "kd+dot"], 2), made(["kd+dot"], 2)
    for trainer in (together, alone):
        captured(trainer)
        trainer.fit(data(), epochs=2)
    expected = flat(alone.students[0].state_dict())
    assert differing(flat(together.students[1].state_dict()), expected) == []
