"""The image size that weights were trained for, where they do not fit a network that is built for another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from understudy.core.image_size import ImageSize
from understudy.models.weight_layouts import Reading

__all__ = ["size_of_weights"]

_MOST_PREFIX_TOKENS = 16  # of a vision transformer: a class token, one of distillation, registers


def size_of_weights(
    reading: Reading, built: Callable[[int], nn.Module], *, size: ImageSize, preferred: ImageSize | None
) -> int | None:
    """Side in pixels of the images that the weights are for, if another size is all that is wrong with them.

    Args:
        reading: of the weights, held against the network as it is built for `size`.
        built: the network for another size; each try takes as long as building it.
        size: that was asked for. Where it is no square, the network's own alone is tried.
        preferred: the network's own.
    """
    if reading.missing or reading.unexpected or reading.unusable:
        return None
    positions = [key for key in reading.misshapen if key not in reading.heads]
    suggested = [
        found
        for key in positions
        if isinstance(size, int)
        for found in _suggested(reading.state[key], reading.wanted[key], size)
    ]
    tried = dict.fromkeys([*suggested[:3], *([preferred] if isinstance(preferred, int) else [])])
    return next((other for other in tried if other != size and _fits(reading, built(other))), None)


def _fits(reading: Reading, module: nn.Module) -> bool:
    own = module.state_dict()
    return all(own[key].shape == value.shape for key, value in reading.state.items() if key not in reading.heads)


def _suggested(theirs: Tensor, ours: Tensor, size: int) -> Iterator[int]:
    """Sizes at which a table of positions would have the file's shape: of tokens in a row, or of a grid."""
    if theirs.ndim != ours.ndim:
        return
    sides = [(there, here) for there, here in zip(theirs.shape, ours.shape, strict=True) if there != here]
    if len(sides) == 1:
        (there, here) = sides[0]
        for extra in range(min(_MOST_PREFIX_TOKENS, there, here)):
            grid, other = math.isqrt(here - extra), math.isqrt(there - extra)
            if grid and grid**2 == here - extra and other**2 == there - extra and size % grid == 0:
                yield size // grid * other
    elif len(set(sides)) == 1:
        (there, here) = sides[0]
        if size * there % here == 0:
            yield size * there // here
