"""CPU threads of torch: told, or the faster of one and all that this process may use, measured on the student's step.

On cores that others use too, or under a CPU quota, threads that wait for each other can take ten times as long as one.
Sums differ by rounding with their number, so a run writes it down and goes on with it.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from understudy.core.config import Config
from understudy.core.image_size import ImageSize, height_and_width
from understudy.core.networks import copied
from understudy.core.outputs import trial_loss
from understudy.models import Network
from understudy.models.network import channels_of
from understudy.runs.components import Components
from understudy.utils import files
from understudy.utils.cpu_quota import cpu_quota
from understudy.utils.errors import UserError
from understudy.utils.machine import cpu_threads, num_cpus
from understudy.utils.seeding import seeded
from understudy.utils.text import plural, two_digits
from understudy.utils.untrusted import plain_json, text_of

__all__ = ["Threads", "choose_threads", "faster_threads", "usable_threads"]

SECONDS, TURNS = 0.5, 7  # of the measurement at most, beside its first passes; a slow network gets fewer turns
PASS_SECONDS = 0.05  # of a pass that is timed, by as many images as fit
FEWEST_IMAGES, MOST_IMAGES = 2, 64
CLEARLY = 0.9  # one thread is taken where it needs less than this share of the time of all: near ties are chance
MOST_BYTES = 10_000  # of a written choice
TOLD_BY = "OMP_NUM_THREADS"


class Threads(Config):
    """How many threads a run takes, and why."""

    threads: int = Field(ge=1, le=1_024)
    reason: str  # in words


def usable_threads() -> int:
    """As many as torch would take, but no more than the CPU quota has cores for."""
    quota = cpu_quota()
    most = torch.get_num_threads()
    return most if quota is None else max(1, min(most, math.ceil(quota)))


def choose_threads(components: Components, file: Path, *, say: Callable[[str], None]) -> int:
    """Have torch take as many CPU threads as the run is told or began with, else as measured; how many these are.

    Args:
        components: of the run, on this process's device.
        file: where the run keeps its choice.
        say: is told of it.

    Raises:
        UserError: the file is damaged.
    """
    choice = components.world.from_first(lambda: _settled(components, file))
    torch.set_num_threads(choice.threads)
    say(f"threads  {plural(choice.threads, 'CPU thread')}: {choice.reason}")
    return int(choice.threads)


def faster_threads(network: Network, most: int, *, image_size: ImageSize, batch_size: int) -> Threads:
    """One thread or `most`: whichever takes the network's training pass faster on this machine as it is now.

    They take turns on a copy; network and random state are left as they were.

    Args:
        network: of the student.
        most: threads that may be used.
        image_size: of its images.
        batch_size: of its steps; the pass that is timed takes as many images of it as fit a twentieth of a second.
    """
    module = copied(network.prepared, role="network").to("cpu").train()
    with seeded(0):
        images = torch.rand(FEWEST_IMAGES, channels_of(module), *height_and_width(image_size))
        try:
            first = min(_seconds(module, images, 1) for _ in range(2))
        except Exception:  # a network of someone else's may raise anything; the run says it in words
            return Threads(threads=most, reason="a first pass failed, so nothing is measured")
        fitting = int(FEWEST_IMAGES * PASS_SECONDS / first)
        images = torch.rand(max(FEWEST_IMAGES, min(batch_size, MOST_IMAGES, fitting)), *images.shape[1:])
        one, every = _medians(module, images, (1, most))
    took = f"{two_digits(1000 * one)} ms with 1, {two_digits(1000 * every)} ms with {most}"
    chosen = 1 if one < CLEARLY * every else most
    return Threads(threads=chosen, reason=f"a pass of {plural(len(images), 'image')} took {took}")


def _medians(module: nn.Module, images: Tensor, counts: tuple[int, int]) -> tuple[float, float]:
    """Median seconds of a pass under each number of threads, which take turns."""
    found: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    for turn in range(TURNS):
        for place in (0, 1) if turn % 2 else (1, 0):
            found[place].append(_seconds(module, images, counts[place]))
        if time.perf_counter() - began > SECONDS:
            break
    one, every = map(statistics.median, found)
    return one, every


def _seconds(module: nn.Module, images: Tensor, threads: int) -> float:
    with cpu_threads(threads):
        began = time.perf_counter()
        trial_loss(module(images)).backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - began


def _settled(components: Components, file: Path) -> Threads:
    """The choice that holds: what is told now, else what the run began with, else what is found out now."""
    told = _told(components)
    if told is None and file.is_file():
        kept = _kept(file)
        return kept.model_copy(update={"reason": "as this run began"})
    choice = told or _found(components)
    if file.parent.is_dir():
        files.write_atomically(file, choice.model_dump_json().encode())
    return choice


def _told(components: Components) -> Threads | None:
    if components.recipe.threads is not None:
        return Threads(threads=components.recipe.threads, reason="as set")
    if os.environ.get(TOLD_BY, "").isdigit():
        return Threads(threads=torch.get_num_threads(), reason=f"{TOLD_BY} is set")
    return None


def _found(components: Components) -> Threads:
    """By quota, and where that leaves several, by a measurement."""
    most, quota, world = usable_threads(), cpu_quota(), components.world
    within = "" if quota is None else f"; the CPU quota is of {quota:.3g} cores"
    if world.size > 1:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
        each = max(1, min(most, num_cpus() // here))
        return Threads(threads=each, reason=f"{world.size} processes share the cores{within}")
    if most == 1:
        return Threads(threads=1, reason=f"no more can be used{within}")
    if components.device.type != "cpu":
        return Threads(threads=most, reason=f"the networks run on {components.device.type}{within}")
    batch_size = components.recipe.data.batch_size // components.recipe.accumulate
    choice = faster_threads(components.student_network, most, image_size=components.image_size, batch_size=batch_size)
    return choice.model_copy(update={"reason": choice.reason + within})


def _kept(file: Path) -> Threads:
    try:
        return Threads.read(plain_json(text_of(file, most_bytes=MOST_BYTES)), what=str(file))
    except ValueError as error:
        raise UserError(f"{file} does not say any more with how many threads this run began; set threads=N") from error
