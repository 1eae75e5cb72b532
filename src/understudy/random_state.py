"""A random state of one's own, swapped in around what may draw from torch's global generators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["RandomState", "seeded"]


class RandomState:
    """Generators of the CPU and of the current CUDA device that advance only while they are swapped in.

    Args:
        seed: where they start.
    """

    def __init__(self, seed: int) -> None:
        outside = _current()
        torch.manual_seed(seed)
        self._state = _current()
        _make_current(outside)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Draw from this state until the block ends; the one outside is left as it was."""
        outside = _current()
        _make_current(self._state)
        try:
            yield
        finally:
            self._state = _current()
            _make_current(outside)

    def state_dict(self) -> dict[str, Tensor]:
        """Where the generators stand."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put them there again."""
        self._state = {device: value.cpu() for device, value in state.items()}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw as if the global generators had just been seeded; they are left as they were."""
    with RandomState(seed).swapped_in():
        yield


def _current() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _make_current(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
