from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import class_counts, context, few, normal, pairing, row_counts, seeds, softmax
from understudy.methods.logit_std import LogitStandardisation, logit_std_loss, standardised


@few
@given(seeds, row_counts, class_counts)
def test_logit_standardisation_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    z = [
        (s - s.mean(axis=1, keepdims=True)) / (1e-7 + s.std(axis=1, ddof=1, keepdims=True))
        for s in (student.numpy(), teacher.numpy())
    ]
    q, p = (softmax(torch.from_numpy(side), 3.0) for side in z)
    expected = 9 * (p * np.log(p / q)).sum(axis=1).mean()
    assert logit_std_loss(student, teacher, temperature=3.0).item() == pytest.approx(expected, rel=1e-9)


@few
@given(seeds, row_counts, class_counts)
def test_scale_and_shift_of_either_side_leave_the_loss_unchanged(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    scale, shift = 1 + normal(num_rows, 1, seed=seed + 2).abs(), normal(num_rows, 1, seed=seed + 3)
    expected = logit_std_loss(student, teacher)
    torch.testing.assert_close(logit_std_loss(scale * student + shift, teacher), expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(logit_std_loss(student, scale * teacher + shift), expected, rtol=1e-5, atol=1e-9)


def test_a_student_in_its_teachers_direction_has_no_loss() -> None:
    teacher = normal(6, 5)
    assert abs(logit_std_loss(3 * teacher + 1, teacher).item()) < 1e-9


@pytest.mark.parametrize("value", [0.0, 0.3, 1000.0])
def test_a_uniform_student_row_is_finite(value: float) -> None:
    student = normal(4, 100).float()
    student[2] = value
    student.requires_grad_()
    loss = logit_std_loss(student, normal(4, 100, seed=1).float())
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_standardised_rows_have_mean_zero_and_deviation_one() -> None:
    rows = standardised(5 * normal(4, 10) + 3)
    torch.testing.assert_close(rows.mean(dim=1), torch.zeros(4).double())
    torch.testing.assert_close(rows.std(dim=1), torch.ones(4).double(), rtol=1e-6, atol=0)


def test_the_term_is_the_loss_at_the_configured_temperature() -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    terms = LogitStandardisation(LogitStandardisation.Config(temperature=3.0), context())(batch)
    torch.testing.assert_close(terms["kd"], logit_std_loss(batch.student_logits, batch.teacher_logits, temperature=3.0))
    assert LogitStandardisation.Config().temperature == 2
    assert LogitStandardisation.default_loss.distill == 9
