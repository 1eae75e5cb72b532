from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import class_counts, context, few, normal, pairing, row_counts, seeds, softmax
from understudy.methods.base import Method
from understudy.methods.kd import kd_loss
from understudy.methods.ttm import TTM, ttm_loss
from understudy.methods.wttm import WTTM, wttm_loss

LOSSES = {"ttm": ttm_loss, "wttm": wttm_loss}


@few
@given(seeds, row_counts, class_counts)
def test_both_equal_the_formulas_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    p, q = softmax(teacher) ** 0.3, softmax(student)
    weights = p.sum(axis=1, keepdims=True)
    p = p / weights
    divergences = (p * np.log(p / q)).sum(axis=1)
    assert ttm_loss(student, teacher, gamma=0.3).item() == pytest.approx(divergences.mean(), rel=1e-9)
    expected = (weights[:, 0] * divergences).mean()
    assert wttm_loss(student, teacher, gamma=0.3).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_at_gamma_1_both_are_kd_at_temperature_1(name: str) -> None:
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    torch.testing.assert_close(LOSSES[name](student, teacher, gamma=1.0), kd_loss(student, teacher, temperature=1))


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_least_at_the_teachers_logits_times_gamma(name: str) -> None:
    teacher, loss = normal(6, 5), LOSSES[name]
    assert abs(loss(0.2 * teacher + 3, teacher, gamma=0.2).item()) < 1e-12
    assert loss(teacher, teacher, gamma=0.2) > 0.1  # so equal logits are not what is asked for
    assert loss(normal(6, 5, seed=1), teacher, gamma=0.2) > 0.1


def test_a_row_weighs_from_1_to_a_power_of_the_number_of_classes() -> None:
    certain, torn = torch.tensor([[60.0, 0.0, 0.0, 0.0]]).double(), torch.zeros(1, 4).double()
    for teacher, weight in ((certain, 1 + 3 * math.exp(-30)), (torn, 4**0.5)):
        student = normal(1, 4)
        expected = weight * ttm_loss(student, teacher, gamma=0.5)
        torch.testing.assert_close(wttm_loss(student, teacher, gamma=0.5), expected, rtol=1e-12, atol=0)


def test_ttm_keeps_the_power_of_a_probability_that_underflows() -> None:
    # exp(-200) is 0 in float32, and so are its powers; softmax(0.1 * z) is not.
    teacher = torch.tensor([[200.0, 0.0, 190.0]])
    wide = ttm_loss(torch.zeros(1, 3).double(), teacher.double())
    torch.testing.assert_close(ttm_loss(torch.zeros(1, 3), teacher).double(), wide, rtol=1e-6, atol=0)
    powers = teacher.softmax(dim=1) ** 0.1
    assert powers[0, 1] == 0


def test_wttm_counts_probabilities_that_underflow() -> None:
    # Each of 999 classes has exp(-120), 0 in float32; their powers 0.02 add up to 999 exp(-2.4).
    teacher = torch.zeros(1, 1000).index_fill(1, torch.tensor([0]), 120.0)
    assert (teacher.softmax(dim=1) ** 0.02).sum() == 1
    student = torch.zeros(1, 1000)
    ratio = wttm_loss(student, teacher, gamma=0.02) / ttm_loss(student, teacher, gamma=0.02)
    assert ratio.item() == pytest.approx(1 + 999 * math.exp(-2.4), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    student, teacher = normal(3, 4, scale=1.0).requires_grad_(), normal(3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda logits: LOSSES[name](logits, teacher, gamma=0.3), student)


@pytest.mark.parametrize("kind", [TTM, WTTM])
def test_the_term_is_the_loss_at_the_configured_gamma(kind: type[Method]) -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    (term,) = kind(kind.Config.model_validate({"gamma": 0.4}), context())(batch).values()
    torch.testing.assert_close(term, LOSSES[kind.name](batch.student_logits, batch.teacher_logits, gamma=0.4))
    assert kind.needs_for(kind.Config()) == {"teacher_logits"}
    assert kind.activations == {"softmax"}
