from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.examples import Array, few, normal, seeds
from helpers.examples_relations import built, rotated_pairing
from understudy.core.batch import Pairing
from understudy.core.taps import TapShape
from understudy.methods.base import Context, TapShapes
from understudy.methods.itrd import ITRD, itrd_correlation_loss, itrd_loss, itrd_mutual_loss
from understudy.utils.errors import UserError

rows_of_a_batch = st.integers(3, 9)


def correlation_by_the_formula(s: Array, t: Array, alpha: float) -> float:
    # corrcoef is a ratio in which M or M - 1 cancels; the authors divide by M what they standardise by M - 1.
    share = (len(s) - 1) / len(s)
    columns = [share * np.corrcoef(s[:, d], t[:, d])[0, 1] for d in range(s.shape[1])]
    return float(np.log2(sum(abs(c - 1) ** (2 * alpha) for c in columns)))


def square_sum_by_the_formula(matrix: Array) -> float:
    return float(((matrix / np.trace(matrix)) ** 2).sum())


def gram_by_the_formula(x: Array) -> Array:
    rows = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(rows @ rows.T)


@few
@given(seeds, rows_of_a_batch)
def test_itrd_equals_the_formula_of_the_paper(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 4, seed=seed), normal(num_rows, 4, seed=seed + 1)
    s, t = student.numpy(), teacher.numpy()
    ours, theirs = gram_by_the_formula(s), gram_by_the_formula(t)
    mutual = square_sum_by_the_formula(ours) - square_sum_by_the_formula(ours * theirs)
    expected = 3.0 * correlation_by_the_formula(s, t, 1.2) + 0.7 * mutual
    found = itrd_loss(student, student, teacher, alpha=1.2, correlation_weight=3.0, mutual_weight=0.7)
    assert found.item() == pytest.approx(expected, rel=1e-8, abs=1e-9)


@few
@given(seeds, rows_of_a_batch)
def test_a_student_that_is_its_teacher_scaled_and_moved_has_the_least_correlation_loss(
    seed: int, num_rows: int
) -> None:
    teacher = normal(num_rows, 4, seed=seed)
    scale, shift = 1 + normal(4, seed=seed + 1).abs(), normal(4, seed=seed + 2)
    least = np.log2(4) - 3 * np.log2(num_rows)
    assert itrd_correlation_loss(scale * teacher + shift, teacher).item() == pytest.approx(least)
    assert itrd_correlation_loss(normal(num_rows, 4, seed=seed + 3), teacher).item() > least


def test_logarithms_are_those_of_the_two_sums() -> None:
    student, teacher = normal(5, 4), normal(5, 3, seed=1)
    ours, theirs = gram_by_the_formula(student.numpy()), gram_by_the_formula(teacher.numpy())
    expected = np.log2(square_sum_by_the_formula(ours) / square_sum_by_the_formula(ours * theirs))
    found = itrd_mutual_loss(student, teacher, takes_logarithm=True)
    assert found.item() == pytest.approx(expected)


def test_constant_columns_count_as_uncorrelated() -> None:
    features, teacher = normal(6, 3), normal(6, 3, seed=1)
    features[:, 1] = 0.3
    student = features.clone().requires_grad_()

    loss = itrd_correlation_loss(student, teacher)
    loss.backward()

    others = correlation_by_the_formula(features[:, [0, 2]].numpy(), teacher[:, [0, 2]].numpy(), 1.5)
    assert loss.item() == pytest.approx(np.log2(2**others + 1))
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert not student.grad[:, 1].any()


def test_the_mutual_term_sees_the_projection_where_widths_differ() -> None:
    batch, method = rotated_pairing(), built("itrd", mutual_weight=1.0)
    projected = method.projector(batch.student_features["embedding"])
    expected = itrd_mutual_loss(projected, batch.teacher_features["embedding"])
    torch.testing.assert_close(method(batch)["mutual"], expected)


def test_the_mutual_term_sees_the_student_itself_where_widths_agree() -> None:
    student, teacher = normal(6, 4).float(), normal(6, 4, seed=1).float()
    side = TapShapes({"embedding": TapShape(4)}, num_classes=2)
    method = ITRD(ITRD.Config(mutual_weight=1.0), Context(student=side, teacher=side, num_classes=2))
    batch = Pairing(
        student,
        teacher,
        torch.zeros(6),
        student_features={"embedding": student},
        teacher_features={"embedding": teacher},
    )
    torch.testing.assert_close(method(batch)["mutual"], itrd_mutual_loss(student, teacher))


def test_itrd_refuses_projections_of_another_size() -> None:
    with pytest.raises(UserError, match=r"\(4, 3\).*\(4, 5\).*as many channels as the teacher"):
        itrd_correlation_loss(normal(4, 3), normal(4, 5))
