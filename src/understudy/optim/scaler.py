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
    step: Callable[..., None],
    *,
    on_device: bool = False,
) -> object:
    """Have the scaler unscale, test and step by showing it all streams as one optimizer with `.grad`s.

    Args:
        scaler: has scaled what the gradients are of.
        gradients: by stream; they stay as they are.
        parameters: by stream, in the same order.
        step: is called with the unscaled gradients where all of them are finite; see `on_device`.
        on_device: nothing is read: it is called in any case, with `skip=`, a () tensor of 1 where it is to leave
            everything as it is, else of 0.

    Returns:
        What has to live on until the scaler's `update`: it remembers optimizers by their id.
    """
    shown = {stream: [parameter.detach() for parameter in parameters[stream]] for stream in gradients}
    for stream, found in gradients.items():
        for holder, gradient in zip(shown[stream], found, strict=True):
            # A copy, since it unscales in place; fused kernels want it laid out as the parameter is.
            holder.grad = torch.empty_like(holder).copy_(gradient) if on_device else gradient.clone()

    def step_on_unscaled() -> None:
        unscaled = {stream: [cast(Tensor, holder.grad) for holder in holders] for stream, holders in shown.items()}
        step(unscaled, **({"skip": optimizer.found_inf} if on_device else {}))

    groups = [{"params": [holder for holders in shown.values() for holder in holders]}]
    optimizer = SimpleNamespace(param_groups=groups, step=step_on_unscaled, _step_supports_amp_scaling=on_device)
    if on_device:
        scaler.unscale_(cast(Any, optimizer))
    scaler.step(cast(Any, optimizer))
    return optimizer
