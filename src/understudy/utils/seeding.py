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
    "restore_drawing_state",
    "seeded",
]

_LOCK = threading.RLock()
_holder: list[str] = []  # name of the thread that trains


class RandomState:
    """Generators of the CPU, of the current CUDA device and of Apple's GPU that advance only while they are swapped in.

    Args:
        seed: where they start.
    """

    def __init__(self, seed: int) -> None:
        outside = random_state()
        torch.manual_seed(seed)
        self._state = random_state()
        make_random_state(outside)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Draw from this state until the block ends; the one outside is left as it was.

        While a CUDA graph is captured nothing is swapped: that cannot be recorded, and what is captured draws nothing.
        """
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            yield
            return
        outside = random_state()
        make_random_state(self._state)
        try:
            yield
        finally:
            self._state = random_state()
            make_random_state(outside)

    def state_dict(self) -> dict[str, Tensor]:
        """Where the generators stand."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put them there again."""
        self._state = {device: value.cpu() for device, value in state.items()}


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
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
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
