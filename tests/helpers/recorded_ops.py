"""A recording of a step that replays like a CUDA graph, on a machine without one.

What a graph keeps is kernels and addresses: a replay reads and writes the very tensors of the recording, and no Python
is gone through. Here every operation that torch dispatches, those of backward passes included, is kept with its
tensors; a replay carries them out again and writes what they give into the tensors that the recording gave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing: a number is read from the device")
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, made in self.calls:
                for before, now in zip(tree_leaves(made), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(before, Tensor) and now.data_ptr() != before.data_ptr():  # else in place, or a view
                        before.copy_(now)


def recorded_ops(step: Callable[[], T]) -> tuple[T, Callable[[], None]]:
    """Take a step, and keep what it does; raises where it reads a number, as a CUDA graph in the making does."""
    recording = _Recording()
    with recording:
        outputs = step()
    return outputs, recording.replay
