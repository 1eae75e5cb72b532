from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from helpers.examples import Array, few, normal, row_counts, seeds
from helpers.examples_embeddings import (
    built,
    check_gradients,
    check_half_autocast,
    check_order,
    deep_context,
    deep_pairing,
)
from understudy.methods.simreg import SimReg, simreg_head, simreg_loss
from understudy.utils.errors import UserError


def unit(rows: Array) -> Array:
    lengths: Array = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / lengths


@few
@given(seeds, row_counts)
def test_simreg_equals_the_squared_distance_of_unit_vectors(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 6, seed=seed), normal(num_rows, 6, seed=seed + 1)
    expected = ((unit(student.numpy()) - unit(teacher.numpy())) ** 2).sum(axis=1).mean()
    assert simreg_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)
    assert abs(simreg_loss(3 * teacher, teacher).item()) < 1e-12
    assert simreg_loss(-teacher, teacher).item() == pytest.approx(4)


def test_a_zero_row_has_a_finite_gradient() -> None:
    student = torch.zeros(2, 6, requires_grad=True)
    loss = simreg_loss(student, torch.ones(2, 6))
    loss.backward()
    assert loss == 2
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_features_of_unlike_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(4, 6\).*\(4, 8\)"):
        simreg_loss(normal(4, 6), normal(4, 8))


def test_the_four_layer_head_normalises_and_bends_after_its_first_and_third_layer() -> None:
    head = simreg_head(6, 8, num_layers=4, hidden_channels=12).double()
    x = normal(9, 6).numpy()

    def layer(x: Array, linear: nn.Module) -> Array:
        weight, bias = (parameter.detach().numpy() for parameter in linear.parameters())
        moved: Array = x @ weight.T + bias
        return moved

    def normalised(x: Array) -> Array:
        scaled: Array = np.maximum((x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5), 0)
        return scaled

    expected = layer(normalised(layer(layer(normalised(layer(x, head[0])), head[3]), head[4])), head[7])
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_shorter_heads_are_affine(num_layers: int) -> None:
    head = simreg_head(6, 8, num_layers=num_layers, hidden_channels=12).double()
    a, b = normal(3, 6), normal(3, 6, seed=1)
    assert sum(isinstance(layer, nn.Linear) for layer in head.modules()) == num_layers
    torch.testing.assert_close(head((a + b) / 2), (head(a) + head(b)) / 2)


def test_hidden_layers_are_twice_as_wide_as_the_student_unless_told() -> None:
    assert built(SimReg, deep_context()).head[0].out_features == 12
    assert built(SimReg, deep_context(), hidden_channels=7).head[0].out_features == 7


def test_the_head_decides_how_many_rows_are_needed() -> None:
    assert SimReg.min_rows(SimReg.Config()) == 2
    assert SimReg.min_rows(SimReg.Config(num_layers=2)) == 1


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_gradients_reach_student_and_head_and_never_the_teacher(num_layers: int) -> None:
    context = deep_context()
    check_gradients(built(SimReg, context, num_layers=num_layers), deep_pairing(context), "embedding")


@few
@given(seeds)
def test_order_of_the_batch_leaves_simreg_unchanged(seed: int) -> None:
    context = deep_context()
    check_order(built(SimReg, context), deep_pairing(context, seed=seed), seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_features_in_half_types_stay_finite(dtype: torch.dtype) -> None:
    context = deep_context()
    check_half_autocast(built(SimReg, context), deep_pairing(context), dtype)


def test_a_group_of_stages_is_refused_with_the_stages_there_are() -> None:
    with pytest.raises(UserError, match=r"method.student_tap 'stages'.*stages\.0.*name one"):
        SimReg(SimReg.Config(student_tap="stages"), deep_context())
