from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import class_counts, few, normal, row_counts, seeds, softmax
from understudy.methods.kd import kd_loss
from understudy.utils.errors import UserError


def kd_by_the_formula(student: Tensor, teacher: Tensor, temperature: float) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return float(temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1).mean())


@few
@given(seeds, row_counts, class_counts)
def test_kd_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    for temperature in (1.0, 4.0):
        expected = kd_by_the_formula(student, teacher, temperature)
        assert kd_loss(student, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-10)


def test_kd_defaults_to_temperature_four() -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    assert kd_loss(student, teacher) == kd_loss(student, teacher, temperature=4)


def test_kd_sums_over_pixels_and_averages_over_images() -> None:
    student, teacher = normal(2, 5, 3, 4), normal(2, 5, 3, 4, seed=1)
    as_rows = [logits.movedim(1, -1).flatten(0, -2) for logits in (student, teacher)]
    torch.testing.assert_close(kd_loss(student, teacher), 12 * kd_loss(*as_rows))


def test_kd_refuses_teachers_with_other_classes() -> None:
    with pytest.raises(UserError, match=r"\(4, 5\).*\(4, 1\).*teacher with the student's classes"):
        kd_loss(normal(4, 5), normal(4, 1))
