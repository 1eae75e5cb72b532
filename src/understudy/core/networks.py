"""The one door for networks that are handed over in Python: checked, copied, or seen through a shell of one's own.

docs/python-inputs.md says what is taken.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantizeBase, ObserverBase
from torch.nn.parameter import is_lazy

from understudy.utils.errors import UserError

__all__ = [
    "all_modules",
    "checked_network",
    "copied",
    "grow_observers_",
    "in_one_line",
    "is_channels_last",
    "other_dtype_note",
    "shell_of",
]

MOST_DEPTH = 4  # of lists in lists that are looked into


def checked_network(network: object, *, role: str, trains: bool = False) -> nn.Module:
    """The network, where it is one that can be run; of one that torch.compile has wrapped, the network within.

    Args:
        network: what a person handed over.
        role: what messages call it: "teacher", "student".
        trains: whether it is going to be trained and saved.

    Raises:
        UserError: naming the network, what is wrong with it and the way out.
    """
    if not isinstance(network, nn.Module):
        raise UserError(_no_module(network, role))
    network = _within_compiled(network, f"{role} {type(network).__name__}")
    name = f"{role} {type(network).__name__}"
    forward = inspect.getattr_static(network, "forward")
    if forward is inspect.getattr_static(nn.Module, "forward"):
        raise UserError(
            f"{name} has no forward and cannot be run; for several {role}s, wrap them in one module whose forward "
            "returns the mean of their logits"
        )
    tensors = [*network.named_parameters(), *network.named_buffers()]
    unsized = [key for key, tensor in tensors if is_lazy(tensor)]
    if unsized:
        raise UserError(
            f"{name} has layers that do not know their size yet ({', '.join(unsized[:3])}); run it once on images of "
            "the size it is going to see, such as network(torch.zeros(2, 3, 32, 32)), and hand it over then"
        )
    nowhere = [key for key, tensor in tensors if tensor.is_meta]
    if nowhere:
        raise UserError(f"{name} has no weights yet ({nowhere[0]} is on the meta device); load them first")
    if trains:
        _check_trainable(network, name)
    return network


def copied(network: nn.Module, *, role: str) -> nn.Module:
    """A copy with tensors of its own.

    A tensor that the network works out in its pass and keeps (a cached feature, the weight behind torch's pruning or
    old weight_norm) is copied without its graph; the next pass works it out anew.

    Raises:
        UserError: it cannot be copied.
    """
    name = f"{role} {type(network).__name__}"
    if attribute := _function_on(network):
        raise UserError(
            f"{name} keeps a function that holds on to the network itself ({attribute}), which a copy would go on "
            "running; make it a method of its class"
        )
    worked_out = (t for t in _kept_tensors(network) if not t.is_leaf)
    try:
        return copy.deepcopy(network, {id(tensor): tensor.detach().clone() for tensor in worked_out})
    except Exception as error:  # its own __deepcopy__, or that of anything that it keeps
        raise UserError(
            f"{name} cannot be copied ({in_one_line(error)}), and a run works on copies; take away what copy.deepcopy "
            "does not take (an open file, a lock, a tensor with its graph: tensor.detach()), or compose a trainer "
            "with us.trainer, which works on the network itself"
        ) from error


def shell_of(network: nn.Module, *, shares_registers: bool = True) -> nn.Module | None:
    """A second network on the same tensors, with modes and hooks of its own; None where that is not to be had.

    Args:
        network: left alone.
        shares_registers: whether tensors that are put in place of others (by `to`, say) are seen by both; without, the
            shell may be given weights of its own.
    """
    modules = list(all_modules(network))
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules) or _function_on(network):
        return None
    tensors = [*network.parameters(), *network.buffers(), *_kept_tensors(network)]
    tensors += [t for module in modules for t in (*module.parameters(), *module.buffers())]
    memo = {id(tensor): tensor if tensor.is_leaf else tensor.detach() for tensor in tensors}
    try:
        shell = copy.deepcopy(network, memo)
    except Exception:  # the network itself will do
        return None
    twins = list(all_modules(shell))
    if len(twins) != len(modules) or not set(map(id, twins)).isdisjoint(map(id, modules)):
        return None
    if shares_registers:
        for module, twin in zip(modules, twins, strict=True):
            for register in ("_parameters", "_buffers"):
                twin.__dict__[register] = module.__dict__[register]
    return shell


def grow_observers_(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give torch's observers of ranges (of quantisation-aware training) the sizes that they have in `state`.

    They begin with a number, or nothing, and grow to a number for each channel in their first pass.
    """
    for path, module in network.named_modules():
        if isinstance(module, ObserverBase | FakeQuantizeBase):
            for name, buffer in module.named_buffers(recurse=False):
                there = state.get(f"{path}.{name}")
                if there is not None and there.shape != buffer.shape:
                    module._buffers[name] = buffer.new_empty(there.shape)


def all_modules(network: nn.Module) -> Iterator[nn.Module]:
    """Its modules, and those that it keeps in plain lists and dicts, which torch does not see; each once."""
    seen: set[int] = set()
    waiting = [network]
    while waiting:
        module = waiting.pop()
        for child in module.modules():
            if id(child) not in seen:
                seen.add(id(child))
                yield child
                waiting += [kept for kept in _values_in(_own(child)) if isinstance(kept, nn.Module)]


def is_channels_last(network: nn.Module) -> bool:
    """Whether weights of it are in that format, and would be others in the contiguous one."""
    maps = (parameter for parameter in network.parameters() if parameter.ndim == 4)
    return any(m.is_contiguous(memory_format=torch.channels_last) and not m.is_contiguous() for m in maps)


def other_dtype_note(network: nn.Module, images: Tensor) -> str:
    """What to say of a failed pass where weights are of another precision than images."""
    dtypes = {tensor.dtype for tensor in network.parameters() if tensor.is_floating_point()} - {images.dtype}
    if not dtypes:
        return ""
    named = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    return f"; its weights are {named}, images come in float32: hand over the network in float32 (network.float())"


def in_one_line(error: BaseException) -> str:
    """The first line of what an error says, with its kind where that is not torch's usual one."""
    said = next(iter(str(error).splitlines()), "")
    return said if said and isinstance(error, RuntimeError) else f"{type(error).__name__}: {said}".rstrip(": ")


def _no_module(network: object, role: str) -> str:
    """Why that is no network, and the way out."""
    if isinstance(network, list | tuple):
        return (
            f"{role}: got a {type(network).__name__} of {len(network)}; wrap several {role}s in one nn.Module that "
            "keeps them in an nn.ModuleList and whose forward returns the mean of their logits"
        )
    if isinstance(network, type):
        return f"{role}: got the class {network.__name__}; hand over a network of it: {network.__name__}(...)"
    if isinstance(network, str):
        return f"{role}: got the text {network!r}; build the network first: us.create_model(...).prepared"
    if isinstance(network, Mapping):
        return f"{role}: got a {type(network).__name__} of weights; load them into a network: network.load_state_dict"
    if isinstance(getattr(network, "prepared", None), nn.Module):
        return f"{role}: got a {type(network).__name__}; hand over its network that takes images in [0,1]: .prepared"
    if callable(network):
        return (
            f"{role}: got a function; wrap it in an nn.Module that keeps the networks it calls as attributes and calls "
            "it in forward, so that their mode, device and weights are known"
        )
    return f"{role}: got {type(network).__name__}, not an nn.Module"


def _within_compiled(network: nn.Module, name: str) -> nn.Module:
    """Hooks and copies do not reach into compiled code, and its state has keys of its own."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # not imported: it takes seconds, and nothing is compiled then
    if dynamo is None:
        return network
    within: nn.Module = network._orig_mod if isinstance(network, dynamo.OptimizedModule) else network
    parts = [path for path, module in within.named_modules() if isinstance(module, dynamo.OptimizedModule)]
    if parts:
        raise UserError(
            f"{name} has parts that torch.compile has wrapped ({', '.join(parts[:3])}); hand it over without, and let "
            "compile=True compile the whole of it"
        )
    return within


def _check_trainable(network: nn.Module, name: str) -> None:
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"{name} has no parameter that can be trained (requires_grad)")
    others = [key for key, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise UserError(
            f"{name} keeps something other than tensors in its state ({', '.join(others[:3])}, from get_extra_state), "
            "and students are saved as tensors; register what must be kept as buffers"
        )


def _own(module: nn.Module) -> dict[str, Any]:
    """What it keeps as plain attributes."""
    return {key: value for key, value in vars(module).items() if key not in _REGISTERS}


_REGISTERS = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}  # which copies go without


def _values_in(kept: Any, depth: int = 0) -> Iterator[Any]:
    """Everything in lists, tuples, sets and dicts."""
    if depth > MOST_DEPTH:
        return
    values = kept.values() if isinstance(kept, dict) else kept if isinstance(kept, list | tuple | set) else None
    if values is None:
        yield kept
        return
    for value in values:
        yield from _values_in(value, depth + 1)


def _kept_tensors(network: nn.Module) -> Iterator[Tensor]:
    """Tensors that are no parameters: buffers and plain attributes."""
    for module in all_modules(network):
        for value in _values_in([_own(module), module._buffers]):
            if isinstance(value, Tensor):
                yield value


def _function_on(network: nn.Module) -> str | None:
    """Name of an attribute that is a function which holds on to one of the network's modules, and so to the original
    where the network is copied; None where there is none."""
    modules = list(all_modules(network))
    own = set(map(id, modules))
    for module in modules:
        for key, value in vars(module).items():
            kept = value if key in ("_forward_hooks", "_forward_pre_hooks") else {} if key in _REGISTERS else value
            if any(_holds(found, own) for found in _values_in(kept)):
                return key
    return None


def _holds(function: Any, modules: set[int]) -> bool:
    """Whether a plain function closes over one of the modules; methods and partials are copied along with them."""
    if isinstance(function, functools.partial):
        return _holds(function.func, modules)
    cells = getattr(function, "__closure__", None) or ()
    defaults = getattr(function, "__defaults__", None) or ()
    for cell in cells:
        try:
            defaults = (*defaults, cell.cell_contents)
        except ValueError:  # empty yet
            continue
    return any(id(value) in modules or id(getattr(value, "__self__", None)) in modules for value in defaults)
