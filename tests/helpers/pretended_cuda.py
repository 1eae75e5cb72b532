"""A GPU that is not there: torch's FakeTensors say device="cuda" and refuse, as a GPU does, what lies on two devices.

Forward passes run, backward passes do not. A FakeTensor has no values, so whatever asks for one is told 1, and every
mask of rows keeps them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

__all__ = ["CUDA", "devices_of", "pretended_cuda"]

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """Whatever is made or moved in this block is a FakeTensor."""
    # Module.to() swaps FakeTensor parameters in place, which torch refuses where the mode itself has seen them.
    patches = [
        mock.patch.object(nn.Module, "_apply", _replace_tensors),
        mock.patch.object(torch, "Generator", _Generator),
        # torch copies the storage, of which a FakeTensor has none: it would read and write elsewhere.
        mock.patch.object(FakeTensor, "__deepcopy__", _copy, create=True),
        mock.patch.object(FakeTensor, "numpy", _numpy, create=True),
        # Written in C to the memory of a tensor, and a FakeTensor has none.
        *(
            mock.patch.object(module, name, return_value=None)
            for module in (torch, torch.random)
            for name in ("get_rng_state", "set_rng_state")
        ),
        mock.patch.object(torch.cuda, "synchronize", return_value=None),
        # Draws until all values are in its range, which those of a FakeTensor never are.
        mock.patch.object(nn.init, "_no_grad_trunc_normal_", lambda tensor, *settings, **more: tensor),
    ]
    with ExitStack() as patched:
        for patch in patches:
            patched.enter_context(patch)
        with _Answers(allow_non_fake_inputs=True):
            yield


def devices_of(tensors: Sequence[Tensor] | Iterator[Tensor]) -> set[str]:
    """Where these tensors are: {"cuda"} is right."""
    return {tensor.device.type for tensor in tensors}


class _Generator(torch.Generator):
    """One of the CPU, wherever it is asked for."""

    def __new__(cls, device: object = None) -> _Generator:
        return super().__new__(cls)


class _Answers(FakeTensorMode):
    """Answers what depends on values: every number is 1, every mask keeps all rows, every place is the first."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        if func is aten.nonzero.default:
            return args[0].new_zeros((len(args[0]), args[0].ndim), dtype=torch.int64)
        if func is aten.index.Tensor:
            args = (args[0], [self._all_rows(index) for index in args[1]], *args[2:])
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _all_rows(self, index: Tensor | None) -> Tensor | None:
        if index is None or index.dtype != torch.bool:
            return index
        with self:
            return torch.arange(len(index), device=index.device)


def _copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(tensor) not in memo:
        memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    found: Tensor = memo[id(tensor)]
    return found


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Ones of its shape; torch refuses it where the tensor is on a GPU, and so is this one."""
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert {tensor.device} device type tensor to numpy")
    with unset_fake_temporarily():
        found: np.ndarray[Any, Any] = torch.ones(tensor.shape, dtype=tensor.dtype).numpy()
    return found


def _replace_tensors(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    if recurse:
        for child in module.children():
            child._apply(fn)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(fn(parameter), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return module
