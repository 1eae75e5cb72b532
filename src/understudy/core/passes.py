"""A pass of a network that leaves nothing behind: one that only looks, and one that is taken a second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch
from torch import Tensor, nn

from understudy.utils.seeding import make_random_state, random_state

__all__ = ["Repeat", "left_as_it_was"]


@contextmanager
def left_as_it_was(module: nn.Module, *, trains: bool = False) -> Iterator[None]:
    """Run without gradient, and restore modes, buffers and the random state afterwards.

    In evaluation mode, or in training mode where `trains`.

    Buffers that the pass registers stay: the network may count on them from its first pass on. Those that it replaces
    or makes grow, as observers of ranges do, are put back.
    """
    modes = {child: getattr(child, "training", False) for child in module.modules()}  # a frozen script has none
    buffers = [
        (child, name, value, value.clone())
        for child in module.modules()
        for name, value in child._buffers.items()
        if value is not None
    ]
    module.train(trains)
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode
        with torch.no_grad():
            for child, name, value, before in buffers:
                is_whole = value.shape == before.shape and value.dtype == before.dtype
                child._buffers[name] = value.copy_(before) if is_whole else before


class Repeat:
    """A pass in training mode taken once more: with the same random numbers, and running statistics moved once.

    Made before the first pass, entered after it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._began_at = random_state()
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> None:
        self._buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        make_random_state(self._began_at)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for buffer, moved_once in self._buffers:
            buffer.data.copy_(moved_once)  # through .data: the graph of this pass takes no notice
        self._buffers = []
