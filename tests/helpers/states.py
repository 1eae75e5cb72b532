"""Nested states laid flat, and which of their values differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from understudy import Student


def flat(state: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a nested state by its path ("/model/fc.weight"), tensors as copies."""
    if not isinstance(state, Mapping | list | tuple):
        return {path: state.detach().clone() if isinstance(state, Tensor) else state}
    items = state.items() if isinstance(state, Mapping) else enumerate(state)
    return {name: leaf for key, value in items for name, leaf in flat(value, f"{path}/{key}").items()}


def tensors_of(student: Student) -> dict[str, Tensor]:
    """Copies of all weights and buffers of a student ("/model/...") and of its connectors ("/connectors/...")."""
    state = student.state_dict()
    return flat({part: dict(state[part]) for part in ("model", "connectors")})


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of values that are not equal bit for bit, or that only one side has."""
    names = sorted({*one, *other})
    return [name for name in names if name not in one or name not in other or not _equal(one[name], other[name])]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return bool(one == other)
