"""Weights of convolutions and linear layers as half-precision copies, all cast at once.

Autocast casts every weight by itself at its first use in a pass, and every gradient by itself on its way back: two
kernels a weight and step, a fifth to a third of all that a step launches. Here one kernel or two cast all of them; what
the network says and the gradients are the same bit for bit, and the weights that are updated stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from understudy.core.passes import left_as_it_was

__all__ = ["HalfWeights"]

# Exactly these: a subclass may change its weights first, in the precision that they have.
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame, nn.Linear)

Place = tuple[nn.Module, str]


class HalfWeights:
    """Puts half-precision copies in the place of a network's weights for a pass under autocast.

    Only in a network that says the same with them, bit for bit: one that reads a layer's weights by itself may not, and
    is left to autocast. That is asked in the first pass.

    Args:
        network: in which they are put; called with images.
        are_constant: whether the copies of the first pass serve all others; for networks that are not trained.
    """

    def __init__(self, network: nn.Module, *, are_constant: bool = False) -> None:
        self._network = network
        self._are_constant = are_constant
        self._places = _places(network)
        self._kept: dict[torch.dtype, Sequence[Tensor]] = {}
        self.agree: bool | None = None  # None: not asked yet

    @contextmanager
    def in_place(self, images: Tensor) -> Iterator[None]:
        """For a pass on these images; nothing is done where autocast is off."""
        kind = images.device.type
        if not torch.is_autocast_enabled(kind):
            yield
            return
        dtype = torch.get_autocast_dtype(kind)
        if self.agree is None:
            self.agree = self._agree(images, dtype)
        if not self.agree:
            yield
            return
        with self._swapped(dtype):
            yield

    @contextmanager
    def _swapped(self, dtype: torch.dtype) -> Iterator[None]:
        weights = [layer._parameters[name] for layer, name in self._places]
        copies = self._copies([weight for weight in weights if weight is not None], dtype)
        for (layer, name), copy in zip(self._places, copies, strict=True):
            layer._parameters[name] = copy  # type: ignore[assignment]  # no Parameter, and no leaf
        try:
            yield
        finally:
            for (layer, name), weight in zip(self._places, weights, strict=True):
                layer._parameters[name] = weight

    def _copies(self, weights: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
        if self._are_constant:
            if dtype not in self._kept:
                self._kept[dtype] = _cast([weight.detach() for weight in weights], dtype)
            return self._kept[dtype]
        trained = [weight for weight in weights if weight.requires_grad]
        frozen = iter(_cast([weight for weight in weights if not weight.requires_grad], dtype))
        copies = iter(_Cast.apply(dtype, *trained)) if trained else iter(())
        return [next(copies if weight.requires_grad else frozen) for weight in weights]

    def _agree(self, images: Tensor, dtype: torch.dtype) -> bool:
        """Whether the network says the same with and without, in evaluation mode."""
        if not self._places:
            return False
        try:
            with left_as_it_was(self._network):
                plain = _tensors(self._network(images))
                with self._swapped(dtype):
                    swapped = _tensors(self._network(images))
        except Exception:  # a network may fail in any way, and says so in the pass that is meant
            return False
        return len(plain) == len(swapped) > 0 and all(map(_are_equal, plain, swapped))


class _Cast(torch.autograd.Function):
    """All weights to half, all gradients back to float32, as autocast casts each."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [weight.dtype for weight in weights]
        return tuple(_cast(weights, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # somebody is going to differentiate once more
            wide = [None if g is None else g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes, strict=True)]
            return None, *wide
        there = [gradient for gradient in gradients if gradient is not None]
        cast = iter(_cast(there, ctx.dtypes[0]))
        return None, *(None if gradient is None else next(cast) for gradient in gradients)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies


def _places(network: nn.Module) -> list[Place]:
    """Float32 weights and biases of the layers, each once; those of layers that share them are left to autocast."""
    found: dict[int, list[Place]] = {}
    for layer in network.modules():
        if type(layer) in LAYERS:
            for name, weight in layer._parameters.items():
                if weight is not None and weight.dtype == torch.float32:
                    found.setdefault(id(weight), []).append((layer, name))
    return [places[0] for places in found.values() if len(places) == 1]


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
