"""What a network costs: parameters, multiply-accumulates, milliseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from understudy.core.image_size import ImageSize, height_and_width
from understudy.models.network import Network, channels_of
from understudy.utils.machine import cpu_threads

__all__ = [
    "Cost",
    "Throughput",
    "cost_of",
    "count_macs",
    "count_parameters",
    "images_per_second",
    "images_within",
    "latency_ms",
    "median_ms",
    "model_facts",
    "throughput",
]

_MEASURE_SECONDS = 0.5
_WARMUP_CALLS = 3
_FEWEST_CALLS = _MEASUREMENTS = 5
_FEW_IMAGES = 8  # by which it is told how long more of them take


@dataclass(frozen=True, slots=True)
class Cost:
    """What one network costs at one input size."""

    num_parameters: int
    macs_per_image: int
    latency_ms: float  # median of a forward pass at batch 1


def cost_of(module: nn.Module, *, image_size: ImageSize, threads: int | None = None) -> Cost:
    """Parameters, MACs for each image and latency at batch 1; see the functions of those names."""
    return Cost(
        num_parameters=count_parameters(module),
        macs_per_image=count_macs(module, image_size),
        latency_ms=latency_ms(module, image_size=image_size, threads=threads),
    )


def count_parameters(module: nn.Module) -> int:
    """All parameters, trained or frozen; shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, image_size: ImageSize) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image of `image_size`.

    Half of what torch's FlopCounterMode counts: no biases, normalisation, activations or pooling.
    """
    with _at_rest(module), FlopCounterMode(display=False) as counter:
        module(_images(module, 1, image_size))
    return int(counter.get_total_flops()) // 2


def latency_ms(
    module: nn.Module,
    *,
    image_size: ImageSize,
    batch_size: int = 1,
    threads: int | None = None,
    seconds: float = _MEASURE_SECONDS,
) -> float:
    """Median milliseconds of a forward pass in eval mode.

    Args:
        module: (B,D,H,W) to anything, D as its `Prepare` says; runs on the device that it is on.
        image_size: pixels a side, or (height, width).
        batch_size: B.
        threads: CPU threads; None: as many as torch uses now.
        seconds: how long to measure.
    """
    images = _images(module, batch_size, image_size)
    with _at_rest(module):
        return median_ms(lambda: module(images), threads=threads, seconds=seconds)


def images_per_second(
    module: nn.Module,
    *,
    image_size: ImageSize,
    batch_size: int,
    threads: int | None = None,
    seconds: float = _MEASURE_SECONDS,
) -> float:
    """Images that a forward pass in eval mode gets through in a second; arguments as in `latency_ms`."""
    taken = latency_ms(module, image_size=image_size, batch_size=batch_size, threads=threads, seconds=seconds)
    return 1e3 * batch_size / taken


@dataclass(frozen=True, slots=True)
class Throughput:
    """Images a second: the median, and the range of several short measurements one after the other."""

    median: float
    lowest: float
    highest: float


def throughput(
    module: nn.Module, *, image_size: ImageSize, batch_size: int, seconds: float = _MEASURE_SECONDS
) -> Throughput:
    """How many images a forward pass in eval mode gets through in a second, and how far that goes up and down.

    Arguments as in `latency_ms`.
    """
    images = _images(module, batch_size, image_size)
    with _at_rest(module):
        taken = _timed(lambda: module(images), seconds)
    share = len(taken) // _MEASUREMENTS
    medians = [statistics.median(taken[place * share : (place + 1) * share]) for place in range(_MEASUREMENTS)]
    median, slowest, fastest = statistics.median(taken), max(medians), min(medians)
    return Throughput(batch_size / median, batch_size / max(slowest, median), batch_size / min(fastest, median))


def images_within(module: nn.Module, *, image_size: ImageSize, most: int, seconds: float) -> int:
    """How many images a forward pass in eval mode may have to last about so long, judged by one pass of a few.

    Args:
        module: runs where it is.
        image_size: of the images.
        most: of them that are wanted; that many where the few ones say they take no longer.
        seconds: that a pass may last.

    Returns:
        From 1 to `most`.
    """
    few = min(most, _FEW_IMAGES)
    images = _images(module, few, image_size)
    with _at_rest(module):
        taken = min(_timed(lambda: module(images), 0.0, num_warmups=1, fewest=1))
    return most if taken == 0 else max(1, min(most, int(few * seconds / taken)))


def median_ms(call: Callable[[], object], *, threads: int | None = None, seconds: float = _MEASURE_SECONDS) -> float:
    """Median milliseconds of `call` over `seconds`, after a warm-up; waits for an accelerator to finish.

    Args:
        call: what to time.
        threads: CPU threads of torch meanwhile; None: as many as it uses now.
        seconds: how long to measure; at least five calls are.
    """
    with cpu_threads(threads):
        return 1e3 * statistics.median(_timed(call, seconds))


def _timed(
    call: Callable[[], object], seconds: float, *, num_warmups: int = _WARMUP_CALLS, fewest: int = _FEWEST_CALLS
) -> list[float]:
    """Seconds of each call."""
    for _ in range(num_warmups):
        call()
    taken: list[float] = []
    started = time.perf_counter()
    while len(taken) < fewest or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        call()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - before)
    return taken


def _images(module: nn.Module, batch_size: int, image_size: ImageSize) -> Tensor:
    like = next(module.parameters(), torch.empty(0))
    shape = (batch_size, channels_of(module), *height_and_width(image_size))
    return torch.zeros(shape, device=like.device, dtype=like.dtype)


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradient; every part's mode is put back."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def model_facts(network: Network, image_size: ImageSize) -> dict[str, Any]:
    """Name, origin, parameters and MACs of a network at an image size."""
    return {
        "model": network.name,
        "starts_from": network.starts_from,
        "parameters": count_parameters(network.module),
        "macs": count_macs(network.prepared, image_size=image_size),
        "image_size": image_size,
    }
