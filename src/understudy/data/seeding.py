"""What a transform draws from the global generators, decided by one number, and drawn again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["drawing_state", "restore_drawing_state", "seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
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
