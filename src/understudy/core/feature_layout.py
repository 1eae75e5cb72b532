"""From whatever layout a network has to (B,D,H,W) maps and (B,D) vectors."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

__all__ = ["as_map", "described", "only_map"]

MOST_PREFIX_TOKENS = 16  # of a vision transformer: a class token, one of distillation, registers
MOST_UNSAID = 2  # of them, where the network does not say and its patches leave a rest at the images' borders


def as_map(
    feature: Tensor, module: nn.Module, *, is_channels_first: bool, image_sides: tuple[int, int] = (1, 1)
) -> Tensor | None:
    """(B,D,H,W) or (B,D) of a map, of tokens or of a vector; None for tokens that fill no map of the images' shape.

    Args:
        feature: what a module gave.
        module: the network, which may say how many tokens are no places.
        is_channels_first: whether a map is (B,D,H,W); else it is (B,H,W,D).
        image_sides: height and width of the images, whose shape a grid of tokens has.
    """
    if feature.ndim == 3:  # tokens (B,N,D): drop class and register tokens, unfold the grid
        grid = _grid(feature.shape[1], getattr(module, "num_prefix_tokens", None), image_sides)
        if grid is None:
            return None
        tokens = feature[:, feature.shape[1] - grid[0] * grid[1] :].transpose(1, 2)  # (B,D,H*W)
        return tokens.reshape(*tokens.shape[:2], *grid)
    if feature.ndim == 4:
        if not is_channels_first:
            return feature.permute(0, 3, 1, 2)
        if feature.shape[2:] == (1, 1):
            return feature.flatten(1)
    return feature


def _grid(num_tokens: int, num_prefix: Any, image_sides: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of all tokens but the network's first few, which join the others late in some networks."""
    if image_sides[0] == image_sides[1]:
        side = _side_of_grid(num_tokens, num_prefix)
        return None if side is None else (side, side)
    known = (num_prefix, 0) if isinstance(num_prefix, int) else range(MOST_PREFIX_TOKENS + 1)
    grids = [_rows_and_columns(num_tokens - prefix, image_sides) for prefix in known if num_tokens > prefix]
    exact = [grid for grid in grids if grid and grid[0] * image_sides[1] == grid[1] * image_sides[0]]
    about = [grid for grid in grids[: MOST_UNSAID + 1] if grid]
    return next(iter([*exact, *about]), None)


def _rows_and_columns(count: int, image_sides: tuple[int, int]) -> tuple[int, int] | None:
    """The grid of `count` squares that images fill, but for less than a square at their borders."""
    height, width = image_sides
    patch = math.sqrt(height * width / count)
    for rows in (math.floor(height / patch), math.ceil(height / patch)):
        if rows and count % rows == 0 and abs(rows - height / patch) < 1 and abs(count // rows - width / patch) < 1:
            return rows, count // rows
    return None


def _side_of_grid(num_tokens: int, num_prefix: Any) -> int | None:
    """Of squares."""
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
