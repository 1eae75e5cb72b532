from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.examples import few, normal, seeds
from understudy.methods.shared.whitening import Whitening, whitened
from understudy.utils.errors import UserError

KINDS: tuple[Whitening, ...] = ("zca", "cholesky")
every_kind = pytest.mark.parametrize("kind", KINDS)
row_counts = st.integers(2, 12)


def covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(dim=0)
    return centred.T @ centred / len(rows)


@every_kind
@few
@given(seed=seeds, num_rows=row_counts)
def test_whitening_equals_its_formula_also_with_fewer_rows_than_columns(
    kind: Whitening, seed: int, num_rows: int
) -> None:
    rows, eps = normal(num_rows, 5, seed=seed), 0.05
    x = rows.numpy() - rows.numpy().mean(axis=0)
    sigma = x.T @ x / num_rows
    shrunk = (1 - eps) * sigma + eps * np.trace(sigma) / 5 * np.eye(5)
    if kind == "zca":
        values, vectors = np.linalg.eigh(shrunk)
        expected = x @ (vectors / np.sqrt(values)) @ vectors.T
    else:
        expected = np.linalg.solve(np.linalg.cholesky(shrunk), x.T).T
    np.testing.assert_allclose(whitened(rows, whitening=kind, eps=eps).numpy(), expected, rtol=1e-7, atol=1e-9)


@every_kind
def test_columns_come_out_uncorrelated_with_variance_one(kind: Whitening) -> None:
    mixed = normal(200, 4) @ normal(4, 4, seed=1) + 7
    found = covariance(whitened(mixed, whitening=kind, eps=1e-8))
    torch.testing.assert_close(found, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-4)


@few
@given(seeds)
def test_zca_follows_a_rotation_of_the_columns(seed: int) -> None:
    rows, rotation = normal(9, 4, seed=seed), torch.linalg.qr(normal(4, 4, seed=seed + 1)).Q
    torch.testing.assert_close(whitened(rows @ rotation), whitened(rows) @ rotation, rtol=1e-6, atol=1e-8)


@every_kind
@few
@given(seed=seeds)
def test_scale_and_shift_of_the_features_cancel(kind: Whitening, seed: int) -> None:
    rows = normal(9, 4, seed=seed)
    torch.testing.assert_close(
        whitened(100 * rows + 3, whitening=kind), whitened(rows, whitening=kind), rtol=1e-6, atol=1e-8
    )


@every_kind
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (2, 5)])
def test_gradients_equal_finite_differences_also_where_eigenvalues_repeat(
    kind: Whitening, shape: tuple[int, int]
) -> None:
    rows = normal(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: whitened(rows, whitening=kind), (rows,))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1000.0])
def test_extreme_batches_are_finite_in_float32(kind: Whitening, dtype: torch.dtype, scale: float) -> None:
    rows = (normal(6, 8, scale=1.0) * scale).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = whitened(rows, whitening=kind)
    found.square().sum().backward()
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_unknown_whitening_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean cholesky"):
        whitened(normal(4, 3), whitening="choleski")  # type: ignore[arg-type]
