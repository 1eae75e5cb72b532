"""A recording of a step that replays like a CUDA graph, on a machine without one.

What a graph keeps is kernels and addresses: a replay reads and writes the very tensors of the recording, and no Python
is gone through. Here every operation that torch dispatches, those of backward passes included, is kept with its
tensors; a replay carries them out again and writes what they give into the tensors that the recording gave. The CPU's
generator stands for the device's: a replay draws from the random states that the recording was told of, wherever they
stand by then, and a draw from any other is refused, as CUDA does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from understudy.utils.seeding import RandomState, make_random_state, random_state

T = TypeVar("T")
aten = torch.ops.aten

# Whose outputs have as many rows as values say: a GPU has to be asked for that.
SIZED_BY_VALUES = (
    aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default,
    aten.unique_consecutive.default, aten.repeat_interleave.Tensor, aten.bincount.default,
)  # fmt: skip
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class _Recording(TorchDispatchMode):
    def __init__(self, drawn_from: Sequence[RandomState]) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []
        self._drawn_from = drawn_from
        self._swapped_in: list[RandomState] = []
        self._outside: list[Mapping[str, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing: a number is read from the device")
        by_mask = func in INDEXING and any(one is not None and one.dtype == torch.bool for one in args[1])
        if by_mask or func in SIZED_BY_VALUES:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func} is sized by values")
        if torch.Tag.nondeterministic_seeded in func.tags:
            drawn = self._swapped_in[-1] if self._swapped_in else None
            if not any(drawn is state for state in self._drawn_from):
                raise RuntimeError("offset increment in a generator that the graph was not told of")
        made = func(*args, **(kwargs or {}))

        def again() -> None:
            for before, now in zip(tree_leaves(made), tree_leaves(func(*args, **(kwargs or {}))), strict=True):
                if isinstance(before, Tensor) and now.data_ptr() != before.data_ptr():  # else in place, or a view
                    before.copy_(now)

        self.calls.append(again)
        return made

    @contextmanager
    def swapped_in(self, state: RandomState) -> Iterator[None]:
        """In place of `RandomState.swapped_in`: replays swap, too."""
        self.calls.append(lambda: self._enter(state))
        self._enter(state)
        self._swapped_in.append(state)
        try:
            yield
        finally:
            self._swapped_in.pop()
            self.calls.append(lambda: self._leave(state))
            self._leave(state)

    def _enter(self, state: RandomState) -> None:
        self._outside.append(random_state())
        make_random_state(state.state_dict())

    def _leave(self, state: RandomState) -> None:
        state.load_state_dict(random_state())
        make_random_state(self._outside.pop())

    def replay(self) -> None:
        with torch.no_grad():
            for call in self.calls:
                call()


def recorded_ops(step: Callable[[], T], drawn_from: Sequence[RandomState]) -> tuple[T, Callable[[], None]]:
    """Take a step, and keep what it does; raises where it reads a number, as a CUDA graph in the making does."""
    recording = _Recording(drawn_from)
    with recording, mock.patch.object(RandomState, "swapped_in", lambda state: recording.swapped_in(state)):
        outputs = step()
    return outputs, recording.replay
