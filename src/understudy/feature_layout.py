"""From whatever layout a network has to (B,D,H,W) maps and (B,D) vectors."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

__all__ = ["as_map", "described", "only_map"]


def as_map(feature: Tensor, module: nn.Module, *, is_channels_first: bool) -> Tensor | None:
    """(B,D,H,W) or (B,D) of a map, of tokens or of a vector; None for tokens that fill no square.

    Args:
        feature: what a module gave.
        module: the network, which may say how many tokens are no places.
        is_channels_first: whether a map is (B,D,H,W); else it is (B,H,W,D).
    """
    if feature.ndim == 3:  # tokens (B,N,D): drop class and register tokens, unfold the square grid
        side = _side_of_grid(feature.shape[1], getattr(module, "num_prefix_tokens", None))
        if side is None:
            return None
        tokens = feature[:, feature.shape[1] - side**2 :].transpose(1, 2)  # (B,D,side*side)
        return tokens.reshape(*tokens.shape[:2], side, side)
    if feature.ndim == 4:
        if not is_channels_first:
            return feature.permute(0, 3, 1, 2)
        if feature.shape[2:] == (1, 1):
            return feature.flatten(1)
    return feature


def _side_of_grid(num_tokens: int, num_prefix: Any) -> int | None:
    """Side of the square of all tokens but the network's first few, which join the others late in some networks."""
    if not isinstance(num_prefix, int):
        return math.isqrt(num_tokens)
    sides = (math.isqrt(count) for count in (num_tokens - num_prefix, num_tokens) if count > 0)
    return next((side for side in sides if num_tokens - side**2 in (0, num_prefix)), None)


def only_map(caught: Any) -> Tensor | None:
    """What was caught, or the first of several maps of one size, as where a stage hands on a shortcut beside it."""
    if isinstance(caught, list | tuple) and caught and all(isinstance(value, Tensor) for value in caught):
        sizes = {tuple(value.shape[2:]) for value in caught}
        return caught[0] if caught[0].ndim == 4 and len(sizes) == 1 else None
    return caught if isinstance(caught, Tensor) else None


def described(caught: Any) -> str:
    """In words, what was caught instead of a tensor."""
    kind = f"a {type(caught).__name__}"
    if isinstance(caught, list | tuple):
        kinds = ", ".join(str(tuple(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in caught)
        return f"{kind} of {len(caught)} ({kinds})"
    return kind
