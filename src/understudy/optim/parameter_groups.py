"""Which parameters are moved apart: those that do not decay, and those of layers that learn at a share of the rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from timm.models._manipulate import group_parameters
from torch import nn

from understudy.utils.errors import UserError

__all__ = ["apart_by_decay", "layer_lr_shares", "parameter_groups", "undecayed_names"]

Named = Sequence[tuple[str, nn.Parameter]]


def parameter_groups(
    named: Named, *, spares: bool, undecayed: Collection[str], lr: float, lr_shares: Mapping[str, float]
) -> list[dict[str, Any]]:
    """torch's parameter groups, those with the whole rate first.

    Args:
        named: parameters that are trained, by name.
        spares: whether norms, biases and those of `undecayed` do not decay.
        undecayed: names, or patterns as in timm.
        lr: the whole rate.
        lr_shares: by name, what share of it moves a parameter, 1 where it is not named; empty: all alike.
    """
    if not lr_shares:
        return apart_by_decay(named, spares=spares, undecayed=undecayed)
    groups = []
    for share in sorted({1.0, *lr_shares.values()}, reverse=True):
        own = [(name, parameter) for name, parameter in named if lr_shares.get(name, 1.0) == share]
        for group in apart_by_decay(own, spares=spares, undecayed=undecayed):
            groups.append(group if share == 1.0 else {**group, "lr": lr * share})
    return groups


def apart_by_decay(named: Named, *, spares: bool, undecayed: Collection[str]) -> list[dict[str, Any]]:
    """One group, or two where some are spared: timm's rule (param_groups_weight_decay), in the other order."""
    if not spares:
        return [{"params": [parameter for _, parameter in named]}] if named else []
    spared = [
        parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatch(name, pattern) for pattern in undecayed)
        for name, parameter in named
    ]
    decayed = [parameter for (_, parameter), is_spared in zip(named, spared, strict=True) if not is_spared]
    others = [parameter for (_, parameter), is_spared in zip(named, spared, strict=True) if is_spared]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def undecayed_names(model: nn.Module) -> frozenset[str]:
    """Parameters that the network itself asks not to decay (timm's `no_weight_decay()`), such as pos_embed."""
    asked = getattr(model, "no_weight_decay", None)
    return frozenset(asked()) if callable(asked) else frozenset()


def layer_lr_shares(network: nn.Module, decay: float) -> dict[str, float]:
    """By parameter, `decay` to the power of how many layers stand behind its own.

    Clark et al., "ELECTRA", ICLR 2020; of vision transformers Bao et al., "BEiT", ICLR 2022. Layers are timm's; what
    its `group_matcher` does not name, as the heads, is the last of them.

    Raises:
        UserError: a network that does not say which layer a parameter is of.
    """
    matcher = getattr(network, "group_matcher", None)
    if not callable(matcher):
        raise UserError(
            f"update.layer_decay: {type(network).__name__} does not say which layer a parameter is of (timm's "
            "group_matcher); leave it out, or take a network of timm's"
        )
    layers: dict[str, int] = group_parameters(network, matcher(coarse=False), reverse=True)
    last = max(layers.values())
    return {name: decay ** (last - layer) for name, layer in layers.items()}
