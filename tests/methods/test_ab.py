from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_features import batch_of, method_of, stages
from understudy.core.taps import Taps
from understudy.methods.ab import AB, ab_loss
from understudy.utils.errors import UserError


def ab_by_the_formula(student: list[Tensor], teacher: list[Tensor], margin: float) -> float:
    total = 0.0
    for i, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        for s, t in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True):
            if t <= 0 and s > -margin:
                total += (s + margin) ** 2 * 2.0 ** (i - len(student) + 1)
            elif t > 0 and s <= margin:
                total += (s - margin) ** 2 * 2.0 ** (i - len(student) + 1)
    return total * 3 / 1000 / len(student[0])


@few
@given(seeds, row_counts)
def test_ab_equals_the_formula_of_the_paper(seed: int, num_rows: int) -> None:
    student, teacher = ([normal(num_rows, 3, 2, 2, seed=seed + i) for i in (first, first + 1)] for first in (0, 5))
    for margin in (0.5, 2.0):
        expected = ab_by_the_formula(student, teacher, margin)
        assert ab_loss(student, teacher, margin=margin).item() == pytest.approx(expected, rel=1e-10)


@few
@given(seeds, row_counts)
def test_ab_is_zero_beyond_the_margin_on_the_teachers_side(seed: int, num_rows: int) -> None:
    teacher = normal(num_rows, 3, 2, 2, seed=seed)
    assert ab_loss([1.5 * teacher.sign() + teacher], [teacher], margin=1.5) == 0
    assert ab_loss([-1.5 * teacher.sign()], [teacher], margin=1.5).item() == pytest.approx(9 * 12 * 3 / 1000)


def test_a_teacher_at_the_boundary_counts_as_inactive() -> None:
    assert ab_loss([torch.full((2, 1), -1.0)], [torch.zeros(2, 1)]) == 0


def test_pre_activations_are_compared_after_connectors_without_relu() -> None:
    method, batch = method_of("ab", margin=2.0), batch_of(stages())
    assert AB.taps == Taps(("preact_stages",), ("preact_stages",))
    connected = [
        connector(batch.student_features[f"preact_stages.{i}"])
        for i, connector in zip((1, 2, 3), method.connectors, strict=True)
    ]
    assert all((each < 0).any() for each in connected)
    teacher = [batch.teacher_features[f"preact_stages.{i}"] for i in (1, 2, 3)]
    torch.testing.assert_close(method(batch)["ab"], ab_loss(connected, teacher, margin=2.0))


def test_other_numbers_of_stages_are_refused() -> None:
    with pytest.raises(UserError, match="got 1 of the student and 0 of the teacher"):
        ab_loss([normal(2, 3)], [])
