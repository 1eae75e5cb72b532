"""torchvision's ColorJitter on whole batches: brightness, contrast and saturation by factors of each image's own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from understudy.data.augment.by_rows import as_bits, as_numbers, changed, uniform
from understudy.utils.hashing import hashed_tensor

__all__ = ["NUM_JITTERED", "drawn_jitter", "jittered"]

ORDERS = list(permutations(range(3)))
NUM_JITTERED = 4  # numbers of a row


def drawn_jitter(key: Tensor, strength: float) -> Tensor:
    """(4,...) int64 on the CPU: in which order, and three factors in 1 - strength .. 1 + strength, of 0 at least."""
    low, high = max(0.0, 1 - strength), 1 + strength
    factors = [uniform(key, "jitter", name, low=low, high=high) for name in ("brightness", "contrast", "saturation")]
    return torch.stack([hashed_tensor(key, "jitter", "order") % len(ORDERS), *map(as_bits, factors)])


def jittered(images: Tensor, numbers: Tensor, *, in_groups: bool) -> Tensor:
    """(B,3,H,W) uint8 by (4,B) `drawn_jitter`, the pixels that torchvision makes of each (test_batched_parts.py)."""
    order, factors = numbers[0], as_numbers(numbers[1:])
    for place in range(3):
        for which, change in enumerate(_CHANGES):
            first, second = (number for number, turns in enumerate(ORDERS) if turns[place] == which)
            rows = (order == first) | (order == second)
            images = changed(images, rows, change, factors[which], in_groups=in_groups)
    return images


def _brightness(images: Tensor, factors: Tensor) -> Tensor:
    return (images.float() * factors.float().view(-1, 1, 1, 1)).clamp(0, 255).byte()


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    grey = transforms.rgb_to_grayscale(images)
    total = grey.sum((1, 2, 3), keepdim=True).float()
    return _blend(images, total.div(torch.full_like(total, grey[0].numel())), factors)


def _saturation(images: Tensor, factors: Tensor) -> Tensor:
    return _blend(images, transforms.rgb_to_grayscale(images), factors)


def _blend(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    """torchvision's, where torch adds the second product without rounding it first."""
    factors = factors.view(-1, 1, 1, 1)
    own = images.float() * factors.float()
    return (own.double() + (1 - factors).float().double() * other.double()).float().clamp(0, 255).byte()


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation)
