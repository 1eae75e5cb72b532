from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor, nn

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_features import CNN, WIDER_CNN, batch_of, method_of, stages
from understudy.methods.fsp import Distance, Pooling, fsp_loss
from understudy.utils.errors import UserError


def maps(num_rows: int, seed: int) -> list[Tensor]:
    return [normal(num_rows, 3, 4, 4, seed=seed), normal(num_rows, 5, 2, 2, seed=seed + 100)]


def fsp_by_the_formula(student: list[Tensor], teacher: list[Tensor], pooling: Pooling, distance: Distance) -> float:
    def matrix(earlier: Tensor, later: Tensor) -> np.ndarray:
        blocks = earlier.numpy().reshape(len(earlier), 3, 2, 2, 2, 2)
        small = blocks.mean(axis=(3, 5)) if pooling == "average" else blocks.max(axis=(3, 5))
        return np.einsum("mihw,mjhw->mij", small, later.numpy()) / 4

    gap = matrix(*student) - matrix(*teacher)
    if distance == "squared":
        return float((gap**2).mean())
    return float(np.sqrt((gap**2).sum(axis=1)).sum() / len(gap))


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("distance", ["squared", "column_norm"])
@few
@given(seed=seeds, num_rows=row_counts)
def test_fsp_equals_its_formula(pooling: Pooling, distance: Distance, seed: int, num_rows: int) -> None:
    student, teacher = maps(num_rows, seed), maps(num_rows, seed + 1)
    expected = fsp_by_the_formula(student, teacher, pooling, distance)
    assert fsp_loss(student, teacher, pooling=pooling, distance=distance).item() == pytest.approx(expected, rel=1e-10)


@few
@given(seeds, row_counts)
def test_fsp_is_zero_where_only_positions_are_rearranged_alike(seed: int, num_rows: int) -> None:
    teacher = [normal(num_rows, 3, 4, 4, seed=seed), normal(num_rows, 5, 4, 4, seed=seed + 1)]
    turned = [each.rot90(dims=(2, 3)) for each in teacher]
    assert fsp_loss(turned, teacher).item() == pytest.approx(0, abs=1e-20)
    assert fsp_loss([turned[0], teacher[1]], teacher) > 1e-6


def test_successive_stages_add_up() -> None:
    student, teacher = ([normal(4, 3, 4, 4, seed=seed + i) for i in range(3)] for seed in (0, 10))
    pairs = fsp_loss(student[:2], teacher[:2]) + fsp_loss(student[1:], teacher[1:])
    torch.testing.assert_close(fsp_loss(student, teacher), pairs)


def test_the_gradient_of_the_column_norm_is_zero_at_equality() -> None:
    student = [each.requires_grad_() for each in maps(2, 0)]
    fsp_loss(student, [each.detach().clone() for each in student], distance="column_norm").backward()
    assert student[0].grad is not None
    assert not student[0].grad.any()


def test_stages_of_equal_width_need_no_connector() -> None:
    assert not list(method_of("fsp", stages(CNN, CNN)).parameters())


def test_a_stage_of_another_width_is_brought_to_the_teachers() -> None:
    method, batch = method_of("fsp", stages([(6, 8, 8), *CNN[1:]], WIDER_CNN)), batch_of(stages())
    assert [type(connector) for connector in method.connectors] == [nn.Identity, nn.Conv2d, nn.Conv2d, nn.Conv2d]
    other = method_of("fsp", pooling="max", distance="column_norm")
    connected = [connector(batch.student_features[f"stages.{i}"]) for i, connector in enumerate(other.connectors)]
    teacher = [batch.teacher_features[f"stages.{i}"] for i in range(4)]
    expected = fsp_loss(connected, teacher, pooling="max", distance="column_norm")
    torch.testing.assert_close(other(batch)["fsp"], expected)


def test_stages_that_cannot_be_related_are_refused() -> None:
    with pytest.raises(UserError, match=r"relates successive stages, but there is only stages\.2"):
        method_of("fsp", student_stages=[2], teacher_stages=[2])
    with pytest.raises(UserError, match="got 1 of the student and 1"):
        fsp_loss(maps(2, 0)[:1], maps(2, 1)[:1])
    with pytest.raises(UserError, match=r"\(2, 3, 5\) and \(2, 4, 5\).*as many channels"):
        fsp_loss(maps(2, 0), [F.pad(maps(2, 1)[0], (0, 0, 0, 0, 0, 1)), maps(2, 1)[1]])


def test_unknown_choices_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean average"):
        fsp_loss(maps(2, 0), maps(2, 1), pooling="averages")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="did you mean squared"):
        fsp_loss(maps(2, 0), maps(2, 1), distance="square")  # type: ignore[arg-type]
