"""Counts and times of networks."""

import time

import torch
from torch import nn

from understudy.models import cost_of, count_macs, count_parameters, images_per_second, latency_ms, median_ms
from understudy.models.cost import images_within, throughput


class Nap:
    """Sleeps, and knows how long it was: longer than told on a busy machine."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def take(self, seconds: float) -> None:
        began = time.perf_counter()
        time.sleep(seconds)
        self.seconds.append(time.perf_counter() - began)


def test_shared_parameters_are_counted_once() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    assert count_parameters(nn.Sequential(first, second)) == 9 + 3 + 3


def test_multiply_accumulates_are_those_of_convolutions_and_products() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    assert count_macs(module, 8) == 3 * 4 * 9 * 8 * 8 + 4 * 5


def test_counting_leaves_modes_and_statistics_as_they_were() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    module[1].eval()
    before = module[1].running_mean.clone()
    count_macs(module, 8)
    assert (module.training, module[0].training, module[1].training) == (True, True, False)
    assert torch.equal(module[1].running_mean, before)


def test_the_median_is_in_milliseconds() -> None:
    nap = Nap()
    median = median_ms(lambda: nap.take(0.005), seconds=0.01)
    assert 1e3 * min(nap.seconds) <= median <= 2e3 * max(nap.seconds)


def test_the_number_of_threads_is_put_back() -> None:
    before, seen = torch.get_num_threads(), set()
    median_ms(lambda: seen.add(torch.get_num_threads()), threads=1, seconds=0.0)
    assert seen == {1}
    assert torch.get_num_threads() == before


def test_cost_brings_the_three_together() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    cost = cost_of(module, image_size=8, threads=1)
    assert (cost.num_parameters, cost.macs_per_image) == (16, 3 * 4 * 64)
    assert 0 < cost.latency_ms < 1000


def test_images_per_second_follow_from_the_time_of_a_batch() -> None:
    class Waits(nn.Module):
        def forward(self, images: torch.Tensor) -> None:
            nap.take(0.002 * len(images))

    nap = Nap()
    rate = images_per_second(Waits(), image_size=4, batch_size=4, seconds=0.1)
    assert 0.5 * 4 / max(nap.seconds) <= rate <= 4 / min(nap.seconds) <= 500
    assert latency_ms(Waits(), image_size=4, seconds=0.01) >= 2


def test_a_pass_that_is_timed_has_as_many_images_as_there_is_time_for() -> None:
    class Waits(nn.Module):
        def forward(self, images: torch.Tensor) -> None:
            seen.append(len(images))
            nap.take(0.002 * len(images))

    nap, seen = Nap(), list[int]()
    assert images_within(Waits(), image_size=4, most=64, seconds=60) == 64
    assert images_within(Waits(), image_size=4, most=64, seconds=0.004) <= 2
    assert images_within(Waits(), image_size=4, most=64, seconds=0) == 1
    assert images_within(Waits(), image_size=4, most=3, seconds=60) == 3
    assert max(seen) == 8


def test_a_throughput_lies_within_the_range_of_its_measurements() -> None:
    found = throughput(nn.Conv2d(3, 4, 3), image_size=8, batch_size=2, seconds=0.05)
    assert 0 < found.lowest <= found.median <= found.highest
