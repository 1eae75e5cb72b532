from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_embeddings import (
    built,
    check_gradients,
    check_half_autocast,
    check_order,
    deep_context,
    deep_pairing,
)
from understudy.core.taps import Taps
from understudy.methods.projector_ensemble import ProjectorEnsemble, projector_ensemble_loss
from understudy.utils.errors import UserError


@few
@given(seeds, row_counts)
def test_the_loss_is_one_minus_the_mean_cosine(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 6, seed=seed), normal(num_rows, 6, seed=seed + 1)
    s, t = student.numpy(), teacher.numpy()
    cosines = (s * t).sum(axis=1) / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1)
    assert projector_ensemble_loss(student, teacher).item() == pytest.approx(1 - cosines.mean(), rel=1e-10)


@few
@given(seeds)
def test_only_directions_count(seed: int) -> None:
    teacher = normal(5, 6, seed=seed)
    lengths = 0.1 + normal(5, 1, seed=seed + 1).abs()
    assert abs(projector_ensemble_loss(lengths * teacher, teacher).item()) < 1e-12
    assert projector_ensemble_loss(-teacher, teacher).item() == pytest.approx(2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_zero_row_counts_one_with_a_finite_gradient(dtype: torch.dtype) -> None:
    student, teacher = torch.zeros(2, 6, dtype=dtype, requires_grad=True), torch.ones(2, 6, dtype=dtype)
    loss = projector_ensemble_loss(student, teacher)
    loss.backward()
    assert loss == 1
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert projector_ensemble_loss(teacher, torch.zeros(2, 6)) == 1


def test_features_of_unlike_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(4, 6\).*\(4, 8\)"):
        projector_ensemble_loss(normal(4, 6), normal(4, 8))


@few
@given(seeds)
def test_the_ensemble_is_the_mean_of_projectors_after_their_relu(seed: int) -> None:
    context = deep_context()
    method, feature = built(ProjectorEnsemble, context, num_projectors=4), normal(5, 6, seed=seed)
    weights = method.projectors.weight.detach().numpy().reshape(4, 8, 6)
    biases = method.projectors.bias.detach().numpy().reshape(4, 8)
    each = [np.maximum(feature.numpy() @ weight.T + bias, 0) for weight, bias in zip(weights, biases, strict=True)]
    np.testing.assert_allclose(method.projected(feature).detach().numpy(), np.mean(each, axis=0), rtol=1e-10)


def test_three_projectors_begin_apart() -> None:
    weights = built(ProjectorEnsemble, deep_context()).projectors.weight.unflatten(0, (3, 8))
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_gradients_reach_student_and_projectors_and_never_the_teacher() -> None:
    context = deep_context()
    check_gradients(built(ProjectorEnsemble, context), deep_pairing(context), "embedding")


def test_maps_count_as_their_mean_and_may_be_named() -> None:
    context = deep_context()
    method, pairing = built(ProjectorEnsemble, context, student_tap="stages.3"), deep_pairing(context)
    assert ProjectorEnsemble.taps_for(method.config) == Taps(student=("stages.3",), teacher=("embedding",))
    torch.testing.assert_close(method(pairing), built(ProjectorEnsemble, context)(pairing))
    with pytest.raises(UserError, match=r"method.teacher_tap 'stages' stands for several.*stages\.0"):
        ProjectorEnsemble(ProjectorEnsemble.Config(teacher_tap="stages"), context)


@few
@given(seeds)
def test_order_of_the_batch_leaves_the_ensemble_unchanged(seed: int) -> None:
    context = deep_context()
    check_order(built(ProjectorEnsemble, context), deep_pairing(context, seed=seed), seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_features_in_half_types_stay_finite(dtype: torch.dtype) -> None:
    context = deep_context()
    check_half_autocast(built(ProjectorEnsemble, context), deep_pairing(context), dtype)
