from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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


@few
@given(seeds, row_counts, class_counts)
def test_kd_of_sigmoids_is_the_divergence_of_yes_and_no_class_by_class(
    seed: int, num_rows: int, num_classes: int
) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    for temperature in (1.0, 4.0):
        p, q = (1 / (1 + np.exp(-side.numpy() / temperature)) for side in (teacher, student))
        by_class = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        found = kd_loss(student, teacher, temperature=temperature, activation="sigmoid")
        assert found.item() == pytest.approx(temperature**2 * by_class.sum() / num_rows, rel=1e-9)


def test_kd_of_a_sigmoid_equals_kd_of_a_softmax_over_yes_and_no() -> None:
    student, teacher = normal(6, 1), normal(6, 1, seed=1)
    two = [torch.cat([side, torch.zeros_like(side)], dim=1) for side in (student, teacher)]
    torch.testing.assert_close(kd_loss(student, teacher, activation="sigmoid"), kd_loss(*two))


def test_kd_of_sigmoids_has_the_gradient_of_binary_cross_entropy_on_soft_targets() -> None:
    student, teacher = normal(4, 5).requires_grad_(), normal(4, 5, seed=1)
    (found,) = torch.autograd.grad(kd_loss(student, teacher, temperature=1, activation="sigmoid"), student)
    cross_entropy = F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="sum") / 4
    torch.testing.assert_close(found, torch.autograd.grad(cross_entropy, student)[0])


def test_kd_names_an_unknown_activation() -> None:
    with pytest.raises(UserError, match=r"activation 'sigmoids' is.*sigmoid"):
        kd_loss(normal(4, 5), normal(4, 5), activation="sigmoids")  # type: ignore[arg-type]


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
