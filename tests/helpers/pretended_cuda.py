"""A GPU that is not there: torch's FakeTensors say device="cuda" and refuse, as a GPU does, what lies on two devices.

Beside each lies a tensor of the CPU with its values, on which every operation is carried out as well. So numbers that
are read, masks, and boxes that are sifted are what they are without a GPU. Backward passes cannot run; in their
place every parameter that a loss reaches is given a gradient that is made up, where the parameter is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

__all__ = ["CUDA", "chosen_cuda", "devices_of", "pretended_cuda"]

CUDA = torch.device("cuda", 0)
TORCHS_NUMPY = Tensor.numpy
aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
# Of outputs that have as many rows as values say, a FakeTensor cannot know the shape.
SIZED_BY_VALUES = (DynamicOutputShapeException, DataDependentOutputException, UnsupportedOperatorException)


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """Whatever is made or moved in this block is a FakeTensor."""
    # Module.to() swaps FakeTensor parameters in place, which torch refuses where the mode itself has seen them.
    patches = [
        mock.patch.object(nn.Module, "_apply", _replace_tensors),
        mock.patch.object(torch, "Generator", _Generator),
        # torch copies the storage, of which a FakeTensor has none: it would read and write elsewhere.
        mock.patch.object(FakeTensor, "__deepcopy__", _copy, create=True),
        mock.patch.object(Tensor, "numpy", _numpy),
        mock.patch.object(FakeTensor, "data_ptr", lambda tensor: _values(tensor).data_ptr(), create=True),
        mock.patch.object(FakeTensor, "__reduce_ex__", _pickled, create=True),
        # Written in C to the memory of a tensor, and a FakeTensor has none.
        mock.patch.object(Tensor, "backward", _made_up_backward),
        mock.patch.object(torch.autograd, "grad", _made_up_gradients),
        *(
            mock.patch.object(module, name, return_value=None)
            for module in (torch, torch.random)
            for name in ("get_rng_state", "set_rng_state")
        ),
        mock.patch.object(torch.cuda, "synchronize", return_value=None),
    ]
    with ExitStack() as patched:
        for patch in patches:
            patched.enter_context(patch)
        for module, name in _file_functions():
            patched.enter_context(mock.patch.object(module, name, _with_values(getattr(module, name))))
        patched.enter_context(torch.backends.cudnn.flags(enabled=False))  # whose kernels a CPU does not have
        with _WithValues(allow_non_fake_inputs=True, allow_fallback_kernels=False):
            yield


@contextmanager
def chosen_cuda() -> Iterator[None]:
    """The same, where whoever asks for a device is told that one."""
    own = [module for name, module in list(sys.modules.items()) if name.startswith("understudy.")]
    with ExitStack() as patched:
        for module in own:
            if hasattr(module, "device_named"):
                patched.enter_context(mock.patch.object(module, "device_named", return_value=CUDA))
            if hasattr(module, "current"):
                patched.enter_context(mock.patch.object(module, "current", return_value=nullcontext()))
        patched.enter_context(pretended_cuda())
        yield


def _file_functions() -> list[tuple[Any, str]]:
    """What reads and writes tensors in files, past torch: from their memory, and into it; and what opens data."""
    own = [module for name, module in list(sys.modules.items()) if name.startswith("understudy.")]
    names = ("load_file", "save_file", "save", "open_data")
    found = [(module, name) for module in own for name in names if hasattr(module, name)]
    rooms = ("safetensors.torch", "understudy.data.splits")
    return [(torch, "load"), *(one for one in found if getattr(*one).__module__ in rooms)]


def _with_values(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, without FakeTensors."""

    def outside(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return function(*tree_map_only(Tensor, _values, args), **kwargs)

    return outside


def devices_of(tensors: Sequence[Tensor] | Iterator[Tensor]) -> set[str]:
    """Where these tensors are: {"cuda"} is right."""
    return {tensor.device.type for tensor in tensors}


class _Generator(torch.Generator):
    """One of the CPU, wherever it is asked for."""

    def __new__(cls, device: object = None) -> _Generator:
        return super().__new__(cls)


class _WithValues(FakeTensorMode):
    """Carries out every operation twice: on FakeTensors for devices and shapes, on the CPU for values."""

    _is_inside = False  # what torch makes of an operation on FakeTensors has no values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._is_inside:
            return super().__torch_dispatch__(func, types, args, kwargs)
        if func.namespace == "profiler":
            return func(*args, **(kwargs or {}))
        if func in INDEXING:
            _check_indices(*args)
        elif func is aten._local_scalar_dense.default:
            return _values(args[0]).item()
        kwargs = kwargs or {}
        self._is_inside, is_sized = True, False
        try:
            made = super().__torch_dispatch__(func, types, args, kwargs)
        except SIZED_BY_VALUES:
            is_sized = True
        finally:
            self._is_inside = False
        with torch.no_grad(), unset_fake_temporarily():
            values = func(*tree_map(_on_cpu, args), **tree_map(_on_cpu, kwargs))
        if is_sized:
            made = self._shaped(func, args, kwargs, values)
        is_alias = any(one.alias_info is not None for one in func._schema.returns)
        for place, (one, value) in enumerate(zip(tree_leaves(made), tree_leaves(values), strict=True)):
            if isinstance(one, FakeTensor):
                # What is kept beside for a backward pass is another thing on a GPU.
                assert place or one.shape == value.shape, f"{func}: {one.shape}, but {value.shape} of values"
                one.values_on_cpu = value if is_alias or place else _laid_out(value, one)
        return made

    def _shaped(self, func: Any, args: Any, kwargs: Any, values: Any) -> Any:
        """FakeTensors of the shape of values, where the arguments are."""
        device, _ = FakeTensor._find_common_device(func, tree_leaves((args, kwargs)))
        self._is_inside = True
        try:
            with self:
                return tree_map_only(Tensor, lambda one: torch.empty_like(one, device=device), values)
        finally:
            self._is_inside = False


def _check_indices(indexed: Tensor, indices: Sequence[Tensor | None], values: Tensor | None = None, *_: Any) -> None:
    """As on a GPU, which torch does not ask of FakeTensors."""
    if any(one is not None and one.device.type != "cpu" and one.device != indexed.device for one in indices):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor")
    if isinstance(values, Tensor) and values.ndim and values.device != indexed.device:
        raise RuntimeError(f"expected {indexed.device} and {values.device} to be the same device, of indexed values")


def _values(tensor: Tensor) -> Tensor:
    """What a tensor holds."""
    found: Tensor = tensor.values_on_cpu if isinstance(tensor, FakeTensor) else tensor.detach()
    return found


def _laid_out(values: Tensor, like: FakeTensor) -> Tensor:
    """In the order in which a GPU would have them: views of one are not always views of another."""
    if values.stride() == like.stride():
        return values
    with unset_fake_temporarily():
        return torch.empty_strided(like.shape, like.stride(), dtype=values.dtype).copy_(values)


def _on_cpu(one: Any) -> Any:
    if isinstance(one, Tensor):
        return _values(one)
    return torch.device("cpu") if isinstance(one, torch.device) else one


def _copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(tensor) not in memo:
        memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    found: Tensor = memo[id(tensor)]
    return found


def _made_up_backward(loss: Tensor, *_: Any, **__: Any) -> None:
    for node in _reached_by([loss]):
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            gradient = _made_up(leaf)
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _made_up_gradients(outputs: Any, inputs: Any, *_: Any, create_graph: bool = False, **__: Any) -> tuple[Any, ...]:
    reached = _reached_by(tree_leaves(outputs))
    nodes = [(one, torch.autograd.graph.get_gradient_edge(one).node) for one in tree_leaves(inputs)]
    return tuple((_made_up(one) if not create_graph else 0.1 * one) if node in reached else None for one, node in nodes)


def _made_up(like: Tensor) -> Tensor:
    return torch.full_like(like.detach(), 0.01)


def _reached_by(outputs: Sequence[Tensor]) -> set[Any]:
    """All nodes of the graphs that end in these."""
    found: set[Any] = set()
    open_nodes = [output.grad_fn for output in outputs]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in found:
            found.add(node)
            open_nodes += [before for before, _ in node.next_functions]
    return found


def _pickled(tensor: Tensor, protocol: Any) -> Any:
    """As its values: to be read again where there is no GPU."""
    with unset_fake_temporarily():
        return _values(tensor).__reduce_ex__(protocol)


def _numpy(tensor: Tensor, *, force: bool = False) -> np.ndarray[Any, Any]:
    """Its values; torch refuses it where the tensor is on a GPU, and so is this one."""
    if tensor.device.type != "cpu" and not force:
        raise TypeError(f"can't convert {tensor.device} device type tensor to numpy")
    with unset_fake_temporarily():
        return TORCHS_NUMPY(_values(tensor))


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
