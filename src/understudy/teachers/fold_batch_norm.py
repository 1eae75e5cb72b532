"""Batch norms folded into the convolutions before them, for a network that is only run in evaluation mode."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from understudy.core.precision import exact_products

__all__ = ["fold_batch_norms_", "largest_difference"]

# Exactly these: a subclass may standardise its weights first, or normalise by the batch.
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d)
WIDE = (torch.float32, torch.float64)  # half types round by more than the tolerance
TOLERANCE = 1e-5  # of max |a - b| / max |b|, for each tensor that is read

Answer = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A convolution whose output a norm takes, and their names."""

    names: tuple[str, str]
    convolution: nn.Conv2d
    norm: nn.BatchNorm2d


def fold_batch_norms_(module: nn.Module, answer: Answer, *, keep: Collection[str] = ()) -> tuple[str, ...]:
    """Fold batch norms into the convolutions before them, in place, wherever the network still says the same.

    Which norm takes what which convolution gives is watched in a pass, not read off a traced graph: a traced network
    is another one, on which the hooks of taps no longer fire. In the same pass, every operation is watched that reads
    what the convolution gives, its weights or those of the norm: a pair that anybody else reads is left out, whether it
    shows in the answer or not. What the network says is compared before and after all the same, and where it differs,
    the pairs are halved until only those are left out that change it.

    Args:
        module: in evaluation mode. A folded norm becomes an identity, or the activation that timm keeps in it.
        answer: runs the network on some images and gives what it says, (B,...) each.
        keep: names of modules that stay as they are, as do those with hooks.

    Returns:
        Names of the norms that were folded. On the images of `answer` nothing has changed by more than 1e-5 of the
        largest value of the same tensor.
    """
    tensor = next(module.parameters(), None)
    with exact_products("cpu" if tensor is None else tensor.device.type):
        spared = {name for name, child in module.named_modules() if name in keep or _has_hooks(child)}
        pairs, said = _watched(module, answer)
        pairs = [pair for pair in pairs if spared.isdisjoint(pair.names)]
        return tuple(pair.names[1] for pair in _folded(module, pairs, answer, said)) if said else ()


def largest_difference(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest max |a - b| / max |b| of tensors side by side; infinite where one is NaN or infinite."""
    found = 0.0
    for one, other in zip(some, others, strict=True):
        if one.shape != other.shape:
            return float("inf")
        apart, largest = (one - other).abs().amax().item(), other.abs().amax().item()
        if not apart <= found * largest:
            found = apart / largest if largest and apart < float("inf") else float("inf")
    return found


class _Readers(TorchDispatchMode):
    """Counts the operations that take each tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.of: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.of.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return function(*args, **kwargs)


def _watched(module: nn.Module, answer: Answer) -> tuple[list[_Pair], Sequence[Tensor]]:
    """The pairs that a pass goes through once and that nobody else reads, and what it says."""
    given: dict[int, tuple[str, Tensor, int]] = {}  # kept alive until the end: a freed tensor's id is used again
    pairs: list[tuple[_Pair, Tensor]] = []
    handles: list[RemovableHandle] = []
    calls: Counter[str] = Counter()
    readers = _Readers()

    def note_convolution(name: str) -> Callable[..., None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name] += 1
            given[id(output)] = (name, output, output._version)
            readers.of[id(output)] = 0  # of a tensor that had this id before

        return note

    def note_norm(name: str, norm: nn.BatchNorm2d) -> Callable[..., None]:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            giver, output, version = given.get(id(inputs[0]), ("", inputs[0], -1))
            if version == inputs[0]._version:  # else something has written into it on the way
                pair = _Pair((giver, name), module.get_submodule(giver), norm)  # type: ignore[arg-type]
                pairs.append((pair, output))

        return note

    for name, child in module.named_modules():
        if type(child) in CONVOLUTIONS and child.weight.dtype in WIDE:
            handles.append(child.register_forward_hook(note_convolution(name)))
        elif type(child) in NORMS and child.running_mean is not None:
            handles.append(child.register_forward_pre_hook(note_norm(name, child)))
    try:
        with readers:
            said = answer()
    finally:
        for handle in handles:
            handle.remove()
    once = [(pair, output) for pair, output in pairs if {calls[name] for name in pair.names} == {1}]
    return [pair for pair, output in once if _is_read_once(pair, output, readers.of)], said


def _is_read_once(pair: _Pair, output: Tensor, readers: Counter[int]) -> bool:
    convolution, norm = pair.convolution, pair.norm
    read = [output, convolution.weight, convolution.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    return all(readers[id(tensor)] == 1 for tensor in read if tensor is not None)


def _folded(module: nn.Module, pairs: Sequence[_Pair], answer: Answer, said: Sequence[Tensor]) -> list[_Pair]:
    """Those of the pairs that could be folded without a change of what is said."""
    if not pairs:
        return []
    before = [(pair, pair.convolution.weight, pair.convolution.bias) for pair in pairs]
    for pair in pairs:
        _fold_(pair)
        module.set_submodule(pair.names[1], _rest_of(pair.norm))
    if _says_still(answer, said):
        return list(pairs)
    for pair, weight, bias in before:
        pair.convolution.weight, pair.convolution.bias = weight, bias
        module.set_submodule(pair.names[1], pair.norm)
    if len(pairs) == 1:
        return []
    middle = len(pairs) // 2
    return [found for half in (pairs[:middle], pairs[middle:]) for found in _folded(module, half, answer, said)]


def _fold_(pair: _Pair) -> None:
    """w <- w g / sigma per output channel, b <- (b - mean) g / sigma + beta, worked out in float64."""
    convolution, norm = pair.convolution, pair.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = shift * scale
    if norm.affine:
        shift = shift + norm.bias.double()
    weight = convolution.weight.double() * scale[:, None, None, None]  # keeps channels_last
    dtype = convolution.weight.dtype
    convolution.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(dtype), requires_grad=False)


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """What a norm does besides normalising, its parts under their names."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(OrderedDict(drop=norm.drop, act=norm.act)).eval()
    return nn.Identity().eval()


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody looks at it, or changes what goes through it."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _says_still(answer: Answer, said: Sequence[Tensor]) -> bool:
    """Whether the network answers as before, up to rounding."""
    try:
        return largest_difference(answer(), said) <= TOLERANCE
    except Exception:  # it asks a folded norm for something that an identity does not have
        return False
