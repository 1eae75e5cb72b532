import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler

from understudy.optim import Schedule, lr_factor
from understudy.utils.errors import UserError


def test_decay_at_150_180_210_means_that_the_151st_epoch_is_the_first_with_the_lower_rate() -> None:
    schedule = Schedule(name="step", milestones=(150, 180, 210), gamma=0.1)
    by_number = {number: lr_factor(schedule, epoch=number - 1, epochs=240) for number in range(1, 241)}
    changes = [number for number in range(2, 241) if by_number[number] != by_number[number - 1]]
    assert changes == [151, 181, 211]
    assert [by_number[number] for number in (1, 151, 181, 211)] == pytest.approx([1, 0.1, 0.01, 0.001])


def test_within_an_epoch_the_rate_of_a_step_schedule_does_not_change() -> None:
    schedule = Schedule(name="step", milestones=(2,))
    assert lr_factor(schedule, epoch=1.999, epochs=4) == 1
    assert lr_factor(schedule, epoch=2.999, epochs=4) == lr_factor(schedule, epoch=2, epochs=4) == 0.1


@given(epochs=st.integers(8, 400), share=st.integers(1, 99))
@example(epochs=100, share=7)  # 0.07 * 100 is a little more than 7
def test_a_milestone_below_one_is_a_fraction_of_the_run(epochs: int, share: int) -> None:
    schedule = Schedule(name="step", milestones=(share / 100,))
    changed_at = next(epoch for epoch in range(epochs + 1) if lr_factor(schedule, epoch, epochs) < 1)
    assert changed_at == math.ceil(share * epochs / 100)


def test_the_same_fractions_give_the_classic_milestones_of_the_classic_length() -> None:
    classic = Schedule(name="step", milestones=(150, 180, 210))
    scaled = Schedule(name="step", milestones=(0.625, 0.75, 0.875))
    for epoch in range(240):
        assert lr_factor(scaled, epoch, 240) == lr_factor(classic, epoch, 240)


def test_constant_stays() -> None:
    assert {lr_factor(Schedule(name="constant"), epoch / 3, 10) for epoch in range(30)} == {1.0}


def test_cosine_falls_from_one_over_the_middle_to_its_lowest() -> None:
    schedule = Schedule(name="cosine", min_factor=0.2)
    assert [lr_factor(schedule, epoch, 10) for epoch in (0, 5, 10)] == pytest.approx([1, 0.6, 0.2])


def test_cosine_begins_where_the_warmup_ends() -> None:
    schedule = Schedule(name="cosine", warmup_epochs=4)
    assert [lr_factor(schedule, epoch, 10) for epoch in (0, 3, 4, 7, 10)] == pytest.approx([0.2, 0.8, 1, 0.5, 0])


def test_warmup_is_linear_within_an_epoch_and_never_zero() -> None:
    schedule = Schedule(name="constant", warmup_epochs=1)
    assert [lr_factor(schedule, epoch, 10) for epoch in (0, 0.5, 1, 2)] == pytest.approx([0.5, 0.75, 1, 1])


@given(
    name=st.sampled_from(["constant", "cosine"]),
    warmup=st.floats(0, 9),
    lowest=st.floats(0, 1),
    epoch=st.floats(0, 10),
)
def test_a_factor_never_leaves_zero_to_one(name: str, warmup: float, lowest: float, epoch: float) -> None:
    schedule = Schedule(name=name, warmup_epochs=warmup, min_factor=lowest)
    assert 0 <= lr_factor(schedule, epoch, 10) <= 1


def test_an_exponential_course_drops_in_steps_that_count_from_the_end_of_the_warmup() -> None:
    schedule = Schedule(name="exponential", gamma=0.97, decay_epochs=2.4, warmup_epochs=3, warmup_lr=1e-6)
    found = [lr_factor(schedule, epoch, 450, lr=0.048) * 0.048 for epoch in (0, 1.5, 3, 5.39, 5.41, 7.79, 7.81)]
    assert found == pytest.approx([1e-6, 0.0240005, 0.048, 0.048, 0.04656, 0.04656, 0.0451632], rel=1e-12)


def test_poly_falls_to_its_lowest_rate_along_a_power() -> None:
    schedule = Schedule(name="poly", power=0.9, min_lr=1e-4)
    found = [lr_factor(schedule, epoch, 40, lr=0.02) * 0.02 for epoch in (0, 20, 40)]
    assert found == pytest.approx([0.02, 1e-4 + 0.0199 * 0.5358867312681466, 1e-4], rel=1e-12)


def test_a_lowest_rate_is_the_same_rate_whatever_the_initial_one() -> None:
    schedule = Schedule(name="cosine", min_lr=1e-3)
    assert [lr_factor(schedule, 10, 10, lr=lr) * lr for lr in (0.1, 0.02)] == pytest.approx([1e-3, 1e-3])


def test_a_warmup_from_a_rate_is_a_straight_line_that_reaches_the_initial_one() -> None:
    schedule = Schedule(name="constant", warmup_epochs=4, warmup_lr=0.1)
    assert [lr_factor(schedule, epoch, 9, lr=0.5) * 0.5 for epoch in (0, 1, 3, 4, 8)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.5, 0.5]
    )


@pytest.mark.parametrize("within", [True, False])
def test_warmup_and_cosine_are_timms_own_step_by_step(within: bool) -> None:
    steps = 7  # an epoch
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = CosineLRScheduler(
        torch.optim.SGD([parameter], lr=2.5e-4), t_initial=(300 if within else 280) * steps, lr_min=5e-6,
        warmup_t=20 * steps, warmup_lr_init=5e-7, warmup_prefix=not within, t_in_epochs=False,
    )  # fmt: skip
    ours = Schedule(name="cosine", min_lr=5e-6, warmup_epochs=20, warmup_lr=5e-7, warmup_within=within)
    for step in range(0, 300 * steps, 3):
        theirs.step_update(step)
        found = 2.5e-4 * lr_factor(ours, step / steps, 300, lr=2.5e-4)
        assert found == pytest.approx(theirs.optimizer.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_short_run_says_nothing_of_its_schedule(epochs: int, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cosine", "poly"):
        lr_factor(Schedule(name=name), 0.5, epochs)
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"name": "step"}, "milestones   are missing; a step schedule needs them, for instance 150, 180, 210"),
        (
            {"name": "cosine", "milestones": [3]},
            "milestones   belong to the step schedule, not to cosine; leave them out, got 3",
        ),
        ({"name": "step", "milestones": [5, 5]}, "milestones   must be above 0 and rise, got 5, 5"),
        ({"name": "step", "milestones": [0, 5]}, "milestones   must be above 0 and rise, got 0, 5"),
        (
            {"name": "step", "milestones": [0.5, 180]},
            r"milestones   must be all epochs \(1 or more\) or all fractions of the run \(below 1\), got 0.5, 180",
        ),
        ({"milestone": [1]}, r"milestone   unknown; did you mean milestones\?"),
        (
            {"name": "exponential"},
            r"decay_epochs   are missing; an exponential schedule needs them, for instance 2\.4 with gamma 0\.97",
        ),
        (
            {"decay_epochs": 2},
            "decay_epochs   belong to the exponential schedule, not to cosine; leave them out, got 2",
        ),
        (
            {"name": "constant", "min_lr": 0.1},
            r"min_lr   belongs to the cosine and poly schedules, not to constant; leave it out, got 0\.1",
        ),
        ({"min_factor": 0.1, "min_lr": 0.1}, r"min_lr   and min_factor both say where the rate ends; leave one out"),
        ({"warmup_lr": 0.1}, r"warmup_lr   is where a warm-up starts, but there is none; set warmup_epochs, got 0\.1"),
        (
            {"name": "linear"},
            "name   input should be 'constant', 'step', 'exponential', 'cosine' or 'poly', got 'linear'",
        ),
    ],
)
def test_a_course_that_cannot_be_is_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Schedule.read(settings, what="schedule")


def test_a_warmup_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(UserError, match="a warm-up of 5 epochs leaves nothing of a run of 5; set a shorter one"):
        lr_factor(Schedule(warmup_epochs=5), epoch=0, epochs=5)


class TestInProportion:
    """A teacher's own training takes the run's course in its own length."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"name": "cosine", "warmup_epochs": 3},
            {"name": "exponential", "gamma": 0.97, "decay_epochs": 2.4, "warmup_epochs": 3, "warmup_lr": 1e-6},
            {"name": "step", "milestones": (15, 18, 21)},
            {"name": "step", "milestones": (0.5, 0.75)},
            {"name": "constant"},
        ],
    )
    def test_the_rate_at_half_the_way_is_the_same(self, settings: dict[str, Any]) -> None:
        schedule = Schedule(**settings)
        short = schedule.in_proportion(30, to=2)
        for share in (0.05, 0.3, 0.5, 0.61, 0.8, 0.99):
            if not settings.get("warmup_epochs") or share > 0.1 or "warmup_lr" in settings:
                assert lr_factor(short, 2 * share, 2) == pytest.approx(lr_factor(schedule, 30 * share, 30))

    def test_a_warmup_longer_than_the_teachers_training_does_not_stop_it(self) -> None:
        schedule = Schedule(name="cosine", warmup_epochs=3)
        assert lr_factor(schedule.in_proportion(30, to=1), 0.05, 1) > 0

    def test_milestones_beyond_the_run_leave_the_rate_as_it_is(self) -> None:
        schedule = Schedule(name="step", milestones=(150, 180)).in_proportion(30, to=2)
        assert {lr_factor(schedule, epoch, 2) for epoch in (0.0, 1.0, 1.9)} == {1.0}


FRACTIONS = [step / 7 for step in range(7 * 30)]  # 30 epochs of 7 steps


def timms(make: Callable[[torch.optim.Optimizer], Scheduler]) -> list[float]:
    """The rates that a scheduler of timm's writes into an optimizer of rate 1, at every step of the 30 epochs."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for epoch in FRACTIONS:
        scheduler.step(epoch)  # type: ignore[arg-type]
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (Schedule(name="cosine"), partial(CosineLRScheduler, t_initial=30)),
        (Schedule(name="cosine", min_factor=0.01), partial(CosineLRScheduler, t_initial=30, lr_min=0.01)),
        (Schedule(name="poly", power=0.9), partial(PolyLRScheduler, t_initial=30, power=0.9)),
        (Schedule(name="exponential", decay_epochs=2.4), partial(StepLRScheduler, decay_t=2.4, decay_rate=0.1)),
        # timm drops an epoch before its milestone.
        (Schedule(name="step", milestones=(10, 20)), partial(MultiStepLRScheduler, decay_t=[11, 21], decay_rate=0.1)),
    ],
    ids=lambda value: value.name if isinstance(value, Schedule) else "",
)  # fmt: skip
def test_every_course_has_the_rates_of_timms_scheduler(
    schedule: Schedule, make: Callable[[torch.optim.Optimizer], Scheduler]
) -> None:
    ours = [lr_factor(schedule, epoch, 30) for epoch in FRACTIONS]
    assert ours == pytest.approx(timms(make), rel=1e-15, abs=2e-16)


def test_a_rate_per_epoch_is_timms_own_as_deit_runs_it() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    timms = CosineLRScheduler(optimizer, 300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6, t_in_epochs=True)
    schedule = Schedule(min_lr=1e-5, warmup_epochs=5, warmup_lr=1e-6, warmup_within=True, per="epoch")
    for epoch in (0, 1, 4, 5, 6, 150, 299):
        timms.step(epoch)
        wanted = optimizer.param_groups[0]["lr"]
        found = [1e-3 * lr_factor(schedule, epoch + within, 300, lr=1e-3) for within in (0.0, 0.5, 0.999)]
        assert found == pytest.approx([wanted] * 3, rel=1e-9), epoch
