"""Scaling: a step on several gradients of each parameter, under a GradScaler that knows of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["step_unless_inf"]

Streams = Mapping[str, Sequence[Tensor]]


def step_unless_inf(
    scaler: torch.amp.GradScaler,
    gradients: Streams,
    parameters: Streams,
    step: Callable[[Mapping[str, list[Tensor]]], None],
) -> object:
    """Have the scaler unscale, test and step by showing it all streams as one optimizer with `.grad`s.

    Args:
        scaler: has scaled what the gradients are of.
        gradients: by stream; they stay as they are.
        parameters: by stream, in the same order.
        step: is called with the unscaled gradients where all of them are finite.

    Returns:
        What has to live on until the scaler's `update`: it remembers optimizers by their id.
    """
    shown = {stream: [parameter.detach() for parameter in parameters[stream]] for stream in gradients}
    for stream, found in gradients.items():
        for holder, gradient in zip(shown[stream], found, strict=True):
            holder.grad = gradient.clone()  # it unscales in place

    def step_on_unscaled() -> None:
        step({stream: [cast(Tensor, holder.grad) for holder in holders] for stream, holders in shown.items()})

    groups = [{"params": [holder for holders in shown.values() for holder in holders]}]
    optimizer = SimpleNamespace(param_groups=groups, step=step_on_unscaled)
    scaler.step(cast(Any, optimizer))
    return optimizer
