"""torch's SyncBatchNorm on the CPU: its layer, its exchange and its backward pass, kernels by the formulas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from helpers.shared_steps import Outcome, five_steps
from understudy.models import Network

BATCH_NORM = {"student": {"model": "cifar:resnet8", "kwargs": {"width": 0.25}, "weights": "none"}}


def five_synced_steps(method: str, update: str, over: dict[str, Any]) -> Outcome:
    """`five_steps` in float64 of a student whose batch norms are synchronised, on the CPU."""
    with on_the_cpu():
        return five_steps(method, update, torch.float64, over, form=synced)


def synced(network: Network) -> Network:
    """The network as `sync_batch_norm: true` has it."""
    return replace(network, module=nn.SyncBatchNorm.convert_sync_batchnorm(network.module))  # type: ignore[no-untyped-call]


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Within it, torch's SyncBatchNorm takes tensors on the CPU, for which torch has no kernels."""
    forward, named = nn.SyncBatchNorm.forward, torch._C._get_privateuse1_backend_name

    def let_in(layer: nn.SyncBatchNorm, rows: Tensor) -> Tensor:
        torch._C._get_privateuse1_backend_name = lambda: "cpu"  # the layer asks for an accelerator, of whatever name
        try:
            return forward(layer, rows)
        finally:
            torch._C._get_privateuse1_backend_name = named

    nn.SyncBatchNorm.forward = let_in  # type: ignore[method-assign]
    try:
        with torch.library._scoped_library("aten", "IMPL") as library:
            for kernel in (_stats, _gathered, _normalised, _reduced, _gradient):
                library.impl(KERNELS[kernel.__name__], kernel, "CPU")
            yield
    finally:
        nn.SyncBatchNorm.forward = forward  # type: ignore[method-assign]


KERNELS = {
    "_stats": "batch_norm_stats",
    "_gathered": "batch_norm_gather_stats_with_counts",
    "_normalised": "batch_norm_elemt",
    "_reduced": "batch_norm_backward_reduce",
    "_gradient": "batch_norm_backward_elemt",
}


def _stats(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(D,) mean, and one over the deviation, of (B,D,H,W)."""
    variance, mean = torch.var_mean(_flat(rows), dim=1, correction=0)
    return mean, (variance + eps).rsqrt()


def _gathered(
    rows: Tensor,
    means: Tensor,
    invstds: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean and one over the deviation of all processes' rows, of (W,D) of each; the running statistics move."""
    total, share = counts.sum(), (counts / counts.sum())[:, None]
    mean = (share * means).sum(dim=0)
    variance = (share * (invstds**-2 - eps + (means - mean) ** 2)).sum(dim=0)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * total / (total - 1), momentum)
    return mean, (variance + eps).rsqrt()


def _normalised(
    rows: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    found = (rows - _wide(mean)) * _wide(invstd)
    found = found if weight is None else found * _wide(weight)
    return found if bias is None else found + _wide(bias)


def _reduced(
    gradient: Tensor,
    rows: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    of_input: bool,
    of_weight: bool,
    of_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(D,) sums of the gradient, of the gradient times what is left of the mean, and those of weight and bias."""
    total = _flat(gradient).sum(dim=1)
    by_rest = _flat(gradient * (rows - _wide(mean))).sum(dim=1)
    return total, by_rest, by_rest * invstd, total.clone()


def _gradient(
    gradient: Tensor,
    rows: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    total: Tensor,
    by_rest: Tensor,
    counts: Tensor,
) -> Tensor:
    number = counts.sum()
    rest = (rows - _wide(mean)) * _wide(invstd**2 * by_rest / number)
    found = (gradient - _wide(total / number) - rest) * _wide(invstd)
    return found if weight is None else found * _wide(weight)


def _flat(rows: Tensor) -> Tensor:
    return rows.transpose(0, 1).flatten(1)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None]
