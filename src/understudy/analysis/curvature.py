"""How sharp the minimum is: largest eigenvalues and trace of the Hessian of a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from understudy.utils.errors import UserError

__all__ = ["Trace", "hessian_trace", "largest_eigenvalues"]

Loss = Callable[[], Tensor]  # the same scalar on every call, with a graph


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace of a Hessian, estimated from n random vectors."""

    mean: float
    standard_error: float
    n: int


def largest_eigenvalues(
    loss: Loss, parameters: Sequence[Tensor], *, count: int = 1, steps: int = 40, seed: int = 0
) -> list[float]:
    """The largest eigenvalues of the loss's Hessian, by Lanczos with full reorthogonalisation.

    Each step is a product of the Hessian with a vector (Pearlmutter, Neural Computation 1994): two backward passes.

    Args:
        loss: a scalar of the parameters, the same on every call: networks in evaluation mode, a fixed set of images.
        parameters: that it is differentiated by, P numbers together.
        count: how many, the largest first.
        steps: of Lanczos, fewer where P is; the largest converge first.
        seed: of the first vector.

    Raises:
        UserError: a count that is not in 1..steps, or no parameters.
    """
    _check(parameters)
    size = sum(parameter.numel() for parameter in parameters)
    steps = min(steps, size)
    if not 1 <= count <= steps:
        raise UserError(f"count must be from 1 to the {steps} steps of Lanczos, got {count}")
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    vector = _flat_noise(parameters, seed)
    vector = vector / vector.norm()
    for step in range(steps):
        basis.append(vector)
        product = _hessian_times(loss, parameters, vector)
        diagonal.append(float(vector @ product))
        known = torch.stack(basis)
        for _ in range(2):  # once is not enough where vectors have become nearly dependent
            product = product - known.T @ (known @ product)
        length = product.norm()
        if step == steps - 1 or length < 1e-10 * max(1.0, max(map(abs, diagonal))):
            break
        beside.append(float(length))
        vector = product / length
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        sides = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
        matrix = matrix + torch.diag(sides, 1) + torch.diag(sides, -1)
    values: list[float] = torch.linalg.eigvalsh(matrix).flip(0)[:count].tolist()
    return values


def hessian_trace(loss: Loss, parameters: Sequence[Tensor], *, samples: int = 32, seed: int = 0) -> Trace:
    """The trace of the loss's Hessian by Hutchinson's estimate: the mean of v^T H v over random signs v.

    Hutchinson, Communications in Statistics 1990.

    Args:
        loss: as of `largest_eigenvalues`.
        parameters: likewise.
        samples: n, two or more.
        seed: of the signs.

    Raises:
        UserError: fewer samples, or no parameters.
    """
    _check(parameters)
    if samples < 2:
        raise UserError(f"an estimate with its error needs two samples or more, got {samples}")
    generator = torch.Generator().manual_seed(seed)
    size = sum(parameter.numel() for parameter in parameters)
    found = []
    for _ in range(samples):
        signs = (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(parameters[0])
        found.append(float(signs @ _hessian_times(loss, parameters, signs)))
    values = torch.tensor(found, dtype=torch.float64)
    return Trace(float(values.mean()), float(values.std() / samples**0.5), samples)


def _check(parameters: Sequence[Tensor]) -> None:
    if not any(parameter.requires_grad for parameter in parameters):
        raise UserError("there is nothing to differentiate by: none of the parameters requires a gradient")


def _flat_noise(parameters: Sequence[Tensor], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = sum(parameter.numel() for parameter in parameters)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(parameters[0])


def _hessian_times(loss: Loss, parameters: Sequence[Tensor], vector: Tensor) -> Tensor:
    """(P,) the Hessian's product with a vector (P,)."""
    # Attention by plain products: its fused kernels have no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
        pieces = torch.split(vector, [parameter.numel() for parameter in parameters])
        reached = [(g, piece) for g, piece in zip(gradients, pieces, strict=True) if g is not None and g.requires_grad]
        if not reached:
            return torch.zeros_like(vector)
        along = torch.stack([(g.flatten() * piece).sum() for g, piece in reached]).sum()
        products = torch.autograd.grad(along, parameters, allow_unused=True)
    flat = [
        torch.zeros(parameter.numel()).to(vector) if product is None else product.flatten()
        for product, parameter in zip(products, parameters, strict=True)
    ]
    return torch.cat(flat)
