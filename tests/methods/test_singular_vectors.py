from __future__ import annotations

import pytest
import torch
from hypothesis import given

from helpers.examples import few, normal, seeds
from understudy.methods.shared.singular_vectors import singular_vectors

both_ways = pytest.mark.parametrize("shape", [(4, 9, 5), (4, 5, 9), (4, 5, 5)], ids=["tall", "wide", "square"])


@both_ways
@few
@given(seed=seeds)
def test_vectors_and_gradient_are_those_of_a_singular_value_decomposition(
    shape: tuple[int, int, int], seed: int
) -> None:
    matrices, weights = normal(*shape, seed=seed).requires_grad_(), normal(4, shape[2], 2, seed=seed + 1)

    def gradient(vectors: torch.Tensor) -> torch.Tensor:
        signs = (vectors * weights).sum(dim=1, keepdim=True).sign().detach()
        return torch.autograd.grad((vectors * signs * weights).pow(3).sum(), matrices)[0]

    ours = singular_vectors(matrices, 2)
    theirs = torch.linalg.svd(matrices, full_matrices=False)[2].mT[:, :, :2]
    expected = gradient(theirs)

    torch.testing.assert_close((ours * theirs).sum(dim=1).abs(), torch.ones(4, 2, dtype=torch.float64))
    torch.testing.assert_close(gradient(ours), expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_singular_values_give_finite_gradients(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    for matrices in (torch.eye(*shape[1:], dtype=dtype).repeat(4, 1, 1), torch.zeros(shape, dtype=dtype)):
        matrices.requires_grad_()
        vectors = singular_vectors(matrices, 3)
        vectors.pow(3).sum().backward()
        assert vectors.isfinite().all()
        assert matrices.grad is not None
        assert matrices.grad.isfinite().all()


def test_no_more_vectors_than_the_matrix_has() -> None:
    assert singular_vectors(normal(2, 3, 5), 4).shape == (2, 5, 3)
    assert singular_vectors(normal(2, 5, 3), 4).shape == (2, 3, 3)
