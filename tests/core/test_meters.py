"""Means of named scalars."""

import torch

from understudy.core.meters import Means, Meter, StepLog, StepRecord


def values(**numbers: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(number) for name, number in numbers.items()}


def test_means_are_weighed_by_the_number_of_rows() -> None:
    meter = Meter()
    meter.add(values(loss=1.0, top1=50.0), 3)
    meter.add(values(loss=5.0, top1=100.0), 1)
    assert meter.read() == {"loss": 2.0, "top1": 62.5}


def test_reading_starts_anew() -> None:
    meter = Meter()
    meter.add(values(loss=1.0), 4)
    meter.read()
    assert meter.read() == {}
    meter.add(values(other=3.0), 1)
    assert meter.read() == {"other": 3.0}


def test_float32_values_are_summed_in_float64() -> None:
    meter = Meter()
    meter.add(values(loss=2.0**24), 1)
    for _ in range(3):
        meter.add(values(loss=1.0), 1)  # float32 has no 2^24 + 1
    assert meter.read() == {"loss": (2.0**24 + 3) / 4}


def test_a_restored_log_of_means_goes_on_to_the_same_mean() -> None:
    straight, first, second = Means(), Means(), Means()
    parts = [({"loss": 0.3, "top1": 2.0}, {"loss": 3.0, "top1": 1.0}), ({"loss": 1.4}, {"loss": 2.0})]
    for sums, weights in [*parts, parts[0]]:
        straight.add(sums, weights)
    for sums, weights in parts:
        first.add(sums, weights)
    second.load_state_dict(first.state_dict())
    second.add(*parts[0])
    assert second.read() == straight.read() == {"loss": 2.0 / 8.0, "top1": 2.0}
    assert second.read() == {}


def record(num_labelled: int, **scalars: float) -> StepRecord:
    """A pass on four rows."""
    labelled = torch.tensor(num_labelled)
    return StepRecord.of_means(values(**scalars), num_rows=4, num_labelled=labelled, of_labelled=["task_loss"])


def test_what_is_a_mean_over_labelled_rows_is_weighed_by_them_alone() -> None:
    log = StepLog()
    log.add(record(4, task_loss=1.0, kd=1.0))
    log.add(record(2, task_loss=3.0, kd=3.0))
    log.add(record(0, task_loss=0.0, kd=5.0))  # a batch without a label
    sums, weights = log.totals()
    assert (sums["task_loss"] / weights["task_loss"], sums["kd"] / weights["kd"]) == (10 / 6, 3.0)


def test_a_log_that_is_closed_begins_anew() -> None:
    log = StepLog()
    log.add(record(1, task_loss=1.0))
    log.reset()
    log.add(record(1, task_loss=1.0))
    assert log.totals() == ({"task_loss": 1.0}, {"task_loss": 1.0})


def test_passes_of_a_step_are_added_up_each_by_its_rows() -> None:
    step = record(1, task_loss=4.0, kd=1.0) + record(3, task_loss=8.0, kd=2.0)
    assert (step.mean("task_loss").item(), step.mean("kd").item()) == (7.0, 1.5)
