"""Means of named scalars."""

import pytest
import torch

from understudy.meters import Meter


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
    assert meter.num_adds == 0
    assert meter.read() == {}
    meter.add(values(other=3.0), 1)
    assert meter.read() == {"other": 3.0}


def test_float32_values_are_summed_in_float64() -> None:
    meter = Meter()
    meter.add(values(loss=2.0**24), 1)
    for _ in range(3):
        meter.add(values(loss=1.0), 1)  # float32 has no 2^24 + 1
    assert meter.read() == {"loss": (2.0**24 + 3) / 4}


def test_a_restored_meter_goes_on_to_the_same_mean() -> None:
    straight, first, second = Meter(), Meter(), Meter()
    parts = [(0.1, 3), (0.7, 2), (0.3, 5)]
    for value, rows in parts:
        straight.add(values(loss=value), rows)
    for value, rows in parts[:2]:
        first.add(values(loss=value), rows)
    second.load_state_dict(first.state_dict())
    second.add(values(loss=0.3), 5)
    assert second.num_adds == 3
    assert second.read() == straight.read()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_meter_goes_on_where_its_values_are_after_a_checkpoint_put_it_on_the_cpu() -> None:
    before, after = Meter(), Meter()
    before.add({"loss": torch.tensor(1.0, device="cuda")}, 1)
    state = before.state_dict()
    after.load_state_dict({**state, "sum": state["sum"].cpu()})  # as torch.load(map_location="cpu") gives it
    after.add({"loss": torch.tensor(3.0, device="cuda")}, 1)
    assert after.read() == {"loss": 2.0}
