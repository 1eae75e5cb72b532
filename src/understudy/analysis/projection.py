"""What a linear projector between student and teacher has learnt: its spectrum, and where it was heading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.utils.errors import UserError

__all__ = ["FixedPoint", "decorrelation", "fixed_point", "spectrum"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """A projector W_p (d_s, d_t) beside where its gradient flow would end.

    Attributes:
        weights: (d_s, d_t) W_p itself.
        solution: (d_s, d_t) C_s^-1 C_st, where eq. 7 is zero.
        whitened: (d_s, d_t) C_st of whitened student features (eq. 9).
        distance: ||W_p - solution|| over ||solution||.
        alignment: cosine of the angle between W_p and the solution; 1: the same up to a factor.
        alignment_whitened: the same of W_p as it acts on whitened features, C_s^(1/2) W_p, with `whitened`.
    """

    weights: Floats
    solution: Floats
    whitened: Floats
    distance: float
    alignment: float
    alignment_whitened: float


def spectrum(weight: Tensor) -> Tensor:
    """Singular values of a linear layer's weight, the largest first; kernels of 1x1 count as matrices.

    Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI 2024, figure 3.

    Args:
        weight: (out, in) or (out, in, 1, 1).
    """
    values: Tensor = torch.linalg.svdvals(weight.detach().flatten(1).double())
    return values


def decorrelation(inputs: Tensor, outputs: Tensor) -> float:
    """Mean absolute Pearson correlation between every input and every output column of a projector over M rows.

    The same source, figure 2, which draws "the correlation between input and output features" and does not define it;
    values compare within this definition alone. Columns that do not vary are left out; NaN where none is left.

    Args:
        inputs: (M, d_s).
        outputs: (M, d_t) of the same rows, two or more.

    Raises:
        UserError: other shapes.
    """
    if inputs.ndim != 2 or outputs.ndim != 2 or len(inputs) != len(outputs) or len(inputs) < 2:
        raise UserError(
            f"correlations need two (M, D) tables of 2 rows or more, got {tuple(inputs.shape)} and "
            f"{tuple(outputs.shape)}"
        )
    a, b = (_standardised(rows.detach().double()) for rows in (inputs, outputs))
    return float((a.T @ b).abs().mean()) if a.shape[1] and b.shape[1] else float("nan")


def fixed_point(weights: Tensor, student: Tensor, teacher: Tensor, *, ridge: float = 1e-6) -> FixedPoint:
    """A projector beside the fixed point of its dynamics, W_p' = C_st - C_s W_p = 0.

    The same source, eq. 7 to 9: C_s = Z_s^T Z_s, C_st = Z_s^T Z_t; whitened student features have C_s = I and so
    W_p = C_st. Taken about the means, which the projector's bias carries.

    Args:
        weights: (d_s, d_t) W_p, so that Z_s W_p is projected.
        student: (N, d_s) Z_s.
        teacher: (N, d_t) Z_t of the same images.
        ridge: added to C_s, as a share of its mean diagonal, where features depend on each other.

    Raises:
        UserError: shapes that do not go together.
    """
    if (
        weights.ndim != 2
        or student.ndim != 2
        or teacher.ndim != 2
        or len(student) != len(teacher)
        or weights.shape != (student.shape[1], teacher.shape[1])
    ):
        raise UserError(
            f"W_p (d_s, d_t) needs features (N, d_s) and (N, d_t), got {tuple(weights.shape)}, {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}"
        )
    own, z_s, z_t = (tensor.detach().double().cpu() for tensor in (weights, student, teacher))
    z_s, z_t = z_s - z_s.mean(0), z_t - z_t.mean(0)
    c_s, c_st = z_s.T @ z_s, z_s.T @ z_t
    c_s = c_s + ridge * c_s.diagonal().mean() * torch.eye(len(c_s), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(c_s)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    inverse_root = vectors @ torch.diag(values.clamp(min=1e-300).rsqrt()) @ vectors.T
    solution, whitened = torch.linalg.solve(c_s, c_st), inverse_root @ c_st
    return FixedPoint(
        weights=own.numpy(),
        solution=solution.numpy(),
        whitened=whitened.numpy(),
        distance=float((own - solution).norm() / solution.norm()),
        alignment=_cosine(own, solution),
        alignment_whitened=_cosine(root @ own, whitened),
    )


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def _standardised(rows: Tensor) -> Tensor:
    """(M, D) columns of mean 0 and length 1, those that vary."""
    rows = rows - rows.mean(0)
    length = rows.norm(dim=0)
    varies = length > 1e-12 * max(float(length.max()), 1e-300) if length.numel() else length > 0
    found: Tensor = rows[:, varies] / length[varies]
    return found
