"""Whitening of features: decorrelated columns of variance 1, by ZCA or Cholesky, differentiable."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from understudy.methods.base import at_least_float32
from understudy.methods.shared.maps import full_precision
from understudy.utils.errors import UserError, unknown_name

__all__ = ["Whitening", "whitened"]

Whitening = Literal["zca", "cholesky"]

_SMALLEST_VARIANCE = 1e-12  # of a column on average; below it the batch is constant and stays near zero


def whitened(rows: Tensor, *, whitening: Whitening = "zca", eps: float = 1e-3) -> Tensor:
    """Centred rows whose columns have covariance 1 with themselves and 0 with each other.

    Ermolov et al., "Whitening for Self-Supervised Representation Learning", ICML 2021, with the shrinkage
    of their code: X W^T, where W S W^T = 1 for S = (1 - eps) cov(X) + eps * v * 1, v the mean variance of a column.
    cholesky: W = L^-1 with S = L L^T, theirs; the result depends on the order of the columns. zca: W = S^-1/2, the
    whitening that moves the rows least.

    The eps is relative to v, so that the scale of X cancels and the condition of S is at most D / eps. With fewer rows
    than columns (M <= D) the covariance of the result has M - 1 eigenvalues near 1, the others are 0; ZCA then works
    on the (M, M) matrix of the rows, at the cost of min(M, D)^3. Gradients are finite for repeated eigenvalues, too.

    Args:
        rows: (M, D), M >= 2; half types are raised to float32, wider ones stay.
        whitening: which W.
        eps: 0 < eps <= 1, the share of the shrinkage. In float32 not below 1e-4.

    Returns:
        (M, D); statistics are the batch's, with 1 / M.

    Raises:
        UserError: an unknown whitening.
    """
    rows = at_least_float32(rows)
    centred = rows - rows.mean(dim=0)
    centred = centred * torch.rsqrt(centred.square().mean() + _SMALLEST_VARIANCE)
    with full_precision(rows):
        if whitening == "zca":
            return _zca(centred, eps)
        if whitening == "cholesky":
            factor = torch.linalg.cholesky(_shrunk(centred.T @ centred / len(rows), eps))
            decorrelated: Tensor = torch.linalg.solve_triangular(factor, centred.T, upper=False)
            return decorrelated.T
    raise UserError(f"whitening {whitening!r} is {unknown_name(whitening, get_args(Whitening))}")


def _zca(centred: Tensor, eps: float) -> Tensor:
    num_rows, num_columns = centred.shape
    if num_rows < num_columns:  # X f(X^T X) = f(X X^T) X
        return _inverse_root(_shrunk(centred @ centred.T / num_rows, eps)) @ centred
    return centred @ _inverse_root(_shrunk(centred.T @ centred / num_rows, eps))


def _shrunk(covariance: Tensor, eps: float) -> Tensor:
    return (1 - eps) * covariance + eps * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)


class _InverseRoot(torch.autograd.Function):
    """S^-1/2 of a symmetric positive matrix, with a gradient that holds for repeated eigenvalues.

    torch's own gradient of eigenvectors divides by differences of eigenvalues, which are all equal in the null space
    of a small batch. The divided differences of x^-1/2 have none: -1 / (a b (a + b)) for a, b the square roots.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        roots = eigenvalues.clamp(min=torch.finfo(matrix.dtype).eps).sqrt()
        ctx.save_for_backward(roots, vectors)
        root: Tensor = (vectors / roots) @ vectors.T
        return root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        inner = vectors.T @ gradients[0] @ vectors
        differences = -1 / (roots[:, None] * roots * (roots[:, None] + roots))
        gradient: Tensor = vectors @ (inner * differences) @ vectors.T
        return gradient


def _inverse_root(matrix: Tensor) -> Tensor:
    root: Tensor = _InverseRoot.apply(matrix)
    return root
