import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from understudy.config import UserError
from understudy.updates import Schedule, lr_factor


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
    ],
)
def test_a_course_that_cannot_be_is_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Schedule.read(settings, what="schedule")


def test_a_warmup_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(UserError, match="a warm-up of 5 epochs leaves nothing of a run of 5; set a shorter one"):
        lr_factor(Schedule(warmup_epochs=5), epoch=0, epochs=5)
