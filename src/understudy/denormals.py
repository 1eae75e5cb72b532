"""Numbers too small for their exponent: processors take them many times slower, and training does not miss them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["denormals_flushed"]


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Let the CPU take numbers below 1.2e-38 (float32) for 0 in this thread until the block ends, where it can.

    Weights that nothing but their decay moves end there, as do the momenta of gradients that have vanished. torch's own
    threads take the setting over when they are started, which the first parallel operation of a process does: of a
    command that is within the block; where somebody has used torch before, they keep what they had.
    """
    before = _are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _are_flushed() -> bool:
    """torch has a way to set this, and none to ask."""
    return (torch.full((), 1e-310, dtype=torch.float64) * 1.0).item() == 0.0
