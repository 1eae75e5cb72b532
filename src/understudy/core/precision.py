"""Precision of a training step: which passes run in half, and what is raised again before a loss sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from understudy.core.batch import Pairing

__all__ = [
    "Precision",
    "at_least_float32",
    "autocast",
    "exact_products",
    "forget_begun_step",
    "grad_scaler",
    "renewed_scaler",
    "scaler_tensors",
    "upcast",
    "upcast_all",
    "widest_dtype",
]

Precision = Literal["float32", "bfloat16", "float16"]

_HALF: dict[Precision, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Networks in half inside the block; their weights stay as they are."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, _HALF[precision])


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler | None:
    """What keeps small float16 gradients from vanishing; bfloat16 has float32's range and needs none."""
    return torch.amp.GradScaler(device.type) if precision == "float16" else None


def renewed_scaler(scaler: torch.amp.GradScaler | None, device: torch.device) -> torch.amp.GradScaler | None:
    """One of the same scale that knows nothing of a step that has begun and failed; waits for the device."""
    if scaler is None:
        return None
    renewed = torch.amp.GradScaler(device.type)
    renewed.load_state_dict(scaler.state_dict())
    return renewed


def scaler_tensors(scaler: torch.amp.GradScaler | None) -> list[Tensor]:
    """What a step changes of it: its scale, and for how many steps it has been that; [] before its first step."""
    found = [] if scaler is None else [scaler._scale, scaler._growth_tracker]
    return [value for value in found if value is not None]


def forget_begun_step(scaler: torch.amp.GradScaler | None) -> None:
    """Have it take the next step as the first since it was updated; its tensors stay the very same."""
    if scaler is not None:
        scaler._per_optimizer_states.clear()


def widest_dtype(device: torch.device) -> torch.dtype:
    """What sums are kept in: float64, which Apple's GPUs (mps) do not have; float32 there."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half types raised to float32; float32 and float64 stay as they are."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def upcast_all(pairings: Mapping[str, Pairing]) -> dict[str, Pairing]:
    """Several by name; what is one Pairing under two names stays one."""
    whole = {id(pairing): upcast(pairing) for pairing in pairings.values()}
    return {name: whole[id(pairing)] for name, pairing in pairings.items()}


def upcast(pairing: Pairing) -> Pairing:
    """Half-precision features as float32.

    Methods run outside autocast on these: inside, torch would take the matrix products of their losses in half, where
    SP's and RKD's Gram matrices overflow (float16 ends at 65,504).
    """

    def up(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype in _HALF.values() else tensor

    return replace(
        pairing,
        student_features={name: up(feature) for name, feature in pairing.student_features.items()},
        teacher_features={name: up(feature) for name, feature in pairing.teacher_features.items()},
    )


@contextmanager
def exact_products(device_type: str) -> Iterator[None]:
    """No gradient, and products in float32 proper; TF32's ten bits would hide what a comparison is after."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = products.fp32_precision, convolutions.fp32_precision
    products.fp32_precision = convolutions.fp32_precision = "ieee"
    try:
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            yield
    finally:
        products.fp32_precision, convolutions.fp32_precision = before
