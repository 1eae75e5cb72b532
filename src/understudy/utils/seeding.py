"""Random states of one's own: swapped in around a step, a thread or the transforms of an image."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy.utils.errors import UserError

__all__ = [
    "RandomState",
    "alone",
    "drawing_state",
    "globally_seeded",
    "make_random_state",
    "random_state",
    "renew_default_generator",
    "restore_drawing_state",
    "seeded",
]

_LOCK = threading.RLock()
_holder: list[str] = []  # name of the thread that trains


class RandomState:
    """Generators of the CPU, of the current CUDA device and of Apple's GPU that advance only while they are swapped in.

    On CUDA it is a generator of its own that the default one points to meanwhile. A CUDA graph that was told of it
    (`register_generator_state`) draws from it at every replay what a step without the graph would draw.

    Args:
        seed: where they start.
    """

    def __init__(self, seed: int) -> None:
        outside = random_state()
        torch.manual_seed(seed)
        self._state = random_state()
        make_random_state(outside)
        self.cuda_generator = _cuda_generator(self._state.pop("cuda", None))

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Draw from this state until the block ends; the one outside is left as it was."""
        outside, cuda_outside = _host_state(), _point_default_to(self.cuda_generator)
        make_random_state(self._state)
        try:
            yield
        finally:
            self._state = _host_state()
            make_random_state(outside)
            _point_default_to(cuda_outside)

    def state_dict(self) -> dict[str, Tensor]:
        """Where the generators stand."""
        cuda = {} if self.cuda_generator is None else {"cuda": self.cuda_generator.get_state()}
        return {**self._state, **cuda}

    def return_to(self, state: Mapping[str, Tensor]) -> None:
        """Put them there again in place, so that graphs which were told of this state draw on from there."""
        self._state = {device: value for device, value in state.items() if device != "cuda"}
        if self.cuda_generator is not None:
            self.cuda_generator.set_state(state["cuda"])

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put them there again; on CUDA in a new generator, of which no graph knows."""
        self._state = {device: value.cpu() for device, value in state.items() if device != "cuda"}
        if "cuda" in state and torch.cuda.is_available():
            self.cuda_generator = _cuda_generator(state["cuda"].cpu())


def renew_default_generator() -> None:
    """Have the default generator of the current CUDA device draw on from a new state.

    The one that a failed capture was told of counts as captured ever after, and refuses to draw.
    """
    state = random_state()
    if "cuda" in state:
        _point_default_to(_cuda_generator(state["cuda"]))


def _cuda_generator(state: Tensor | None) -> torch.Generator | None:
    """A new one of the current CUDA device; None where there is no state for it to stand at."""
    if state is None:
        return None
    generator = torch.Generator(device=torch.device("cuda", torch.cuda.current_device()))
    generator.set_state(state)
    return generator


def _point_default_to(generator: torch.Generator | None) -> torch.Generator | None:
    """Have the default generator draw from another one's state; one that points to the state it drew from before."""
    if generator is None:
        return None
    default = torch.cuda.default_generators[generator.device.index]
    before = default.graphsafe_get_state()
    default.graphsafe_set_state(generator)
    return before


@contextmanager
def alone(what: str) -> Iterator[None]:
    """The only thread of this process that trains, until the block ends; nested blocks of one thread are fine.

    torch has one random state for all threads of a process: two that train would draw each other's numbers.

    Args:
        what: is begun here, for the message.

    Raises:
        UserError: another thread trains.
    """
    if not _LOCK.acquire(blocking=False):
        raise UserError(
            f"{what} is begun in thread {threading.current_thread().name!r} while thread {_holder[0]!r} trains; torch "
            "has one random state for all threads, so that neither could be repeated: take one after the other, or a "
            "process for each"
        )
    _holder.insert(0, threading.current_thread().name)
    try:
        yield
    finally:
        _holder.pop(0)
        _LOCK.release()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw as if the global generators had just been seeded; they are left as they were."""
    with RandomState(seed).swapped_in():
        yield


def random_state() -> dict[str, Tensor]:
    """Where the generators of the CPU, of the current CUDA device and of Apple's GPU stand, those that there are."""
    state = _host_state()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _host_state() -> dict[str, Tensor]:
    """The same without CUDA: what may be read and set while a CUDA graph is captured."""
    state = {"cpu": torch.get_rng_state()}
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def make_random_state(state: Mapping[str, Tensor]) -> None:
    """Put them there again."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def globally_seeded(seed: int) -> Iterator[None]:
    """`random`, numpy's and torch's CPU generators started from `seed`, and put back afterwards.

    Between them, these three are what torchvision and timm draw from. A transform that owns its generator draws from
    that one as ever: what it gives then depends on the worker and on what that has drawn before.
    """
    outside = drawing_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators too
    try:
        yield
    finally:
        restore_drawing_state(outside)


def drawing_state() -> tuple[Any, Any, torch.Tensor]:
    """Where the three generators stand."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def restore_drawing_state(state: tuple[Any, Any, torch.Tensor]) -> None:
    """Put them there again."""
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
