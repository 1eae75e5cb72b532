"""One integer hash on Python ints and on int64 tensors: the root of all randomness of the data.

It is integer arithmetic modulo 2^64 alone, so a tensor on any device, and a Python int in any process, give the same
number. The mixing function is splitmix64's finaliser (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
Generators", OOPSLA 2014, with the constants of Stafford's variant 13).
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["fingerprint", "hashed", "hashed_tensor"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, splitmix64's increment
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)


def hashed(*parts: int | str) -> int:
    """A number in 0..2^63-1 that depends on every part and on their order; negative ints are taken modulo 2^64."""
    state = 0
    for part in parts:
        state = _mixed_int((state ^ _as_int(part)) + _GOLDEN)
    return state >> 1  # fits an int64 and is never negative, so that `% n` means the same everywhere


def hashed_tensor(*parts: int | str | Tensor) -> Tensor:
    """`hashed`, elementwise.

    Args:
        parts: ints, strings, and at least one int64 tensor; tensors broadcast against each other.

    Returns:
        int64 tensor of the broadcast shape: element i is `hashed` of the i-th elements.
    """
    state: int | Tensor = 0
    for part in parts:
        if not isinstance(part, Tensor) and isinstance(state, int):
            state = _mixed_int((state ^ _as_int(part)) + _GOLDEN)
            continue
        known = _signed(state) if isinstance(state, int) else state
        joined: Tensor = known ^ part if isinstance(part, Tensor) else known ^ _signed(_as_int(part))  # type: ignore[assignment]
        state = _mixed_tensor(joined + _signed(_GOLDEN))
    assert isinstance(state, Tensor), "no part is a tensor: hashed() is meant"
    return _shifted(state, 1)


def fingerprint(tensors: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that depend on every name, shape, dtype and bit of the tensors.

    What is no tensor (the extra state of a module) counts with its pickle.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            digest.update(name.encode() + pickle.dumps(tensor))
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _mixed_int(state: int) -> int:
    state &= _MASK
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        state = ((state ^ (state >> shift)) * multiplier) & _MASK
    return state ^ (state >> _SHIFTS[-1])


def _mixed_tensor(state: Tensor) -> Tensor:
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        state = (state ^ _shifted(state, shift)) * _signed(multiplier)
    return state ^ _shifted(state, _SHIFTS[-1])


def _shifted(state: Tensor, bits: int) -> Tensor:
    # int64's >> copies the sign bit down; the mask makes the shift a logical one, as on unsigned numbers.
    return (state >> bits) & (_MASK >> bits)


def _signed(number: int) -> int:
    """The int64 with the bits of a number in 0..2^64-1."""
    return number - (1 << 64) if number >> 63 else number


def _as_int(part: int | str) -> int:
    if isinstance(part, str):
        return int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")
    return part & _MASK
