from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import class_counts, few, normal, random_labels, row_counts, seeds, softmax
from understudy.methods.kd import kd_loss
from understudy.methods.losses.kd_variants import elementwise_kd_loss, takd_objective
from understudy.methods.losses.token import (
    co_advise_objective,
    deit_hard_loss,
    deit_hard_objective,
    deit_soft_loss,
    deit_soft_objective,
)
from understudy.utils.errors import UserError


def cross_entropy(logits: Tensor, classes: Tensor) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(logits)), classes.numpy()]).mean())


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 times the sum over classes, mean over rows."""
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    return float(temperature**2 * (p * np.log(p / q)).sum(axis=1).mean())


@few
@given(seeds, row_counts, class_counts)
def test_takd_and_deit_equal_the_formulas_of_their_code(seed: int, num_rows: int, num_classes: int) -> None:
    student, token, teacher = (normal(num_rows, num_classes, seed=seed + i) for i in range(3))
    labels = random_labels(num_rows, num_classes, seed)
    task = cross_entropy(student, labels)
    takd = takd_objective(student, teacher, labels, temperature=5.0, distill_weight=0.3)
    expected = 0.7 * task + 0.3 * divergence(student, teacher, 5.0) / num_classes
    assert takd.item() == pytest.approx(expected, rel=1e-9)
    hard = deit_hard_objective(student, token, teacher, labels, alpha=0.4)
    assert hard.item() == pytest.approx(0.6 * task + 0.4 * cross_entropy(token, teacher.argmax(dim=1)), rel=1e-9)
    soft = deit_soft_objective(student, token, teacher, labels)
    assert soft.item() == pytest.approx(0.9 * task + 0.1 * divergence(token, teacher, 3.0) / num_classes, rel=1e-9)


@few
@given(seeds, row_counts, class_counts)
def test_co_advise_gives_each_token_its_own_teacher(seed: int, num_rows: int, num_classes: int) -> None:
    student, first, second, one, two = (normal(num_rows, num_classes, seed=seed + i) for i in range(5))
    labels = random_labels(num_rows, num_classes, seed)
    found = co_advise_objective(student, [first, second], [one, two], labels, temperature=2.0)
    expected = cross_entropy(student, labels) + divergence(first, one, 2.0) + divergence(second, two, 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_mean_over_elements_is_kd_divided_by_the_number_of_classes() -> None:
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    expected = kd_loss(student, teacher, temperature=3.0) / 5
    torch.testing.assert_close(elementwise_kd_loss(student, teacher, temperature=3.0), expected)
    torch.testing.assert_close(deit_soft_loss(student, teacher), expected)


def test_the_first_of_equal_teacher_logits_is_the_hard_label() -> None:
    token, tied = normal(1, 4), torch.tensor([[0.0, 2.0, 2.0, 1.0]], dtype=torch.float64)
    assert deit_hard_loss(token, tied).item() == pytest.approx(cross_entropy(token, torch.tensor([1])))


def test_mixed_and_missing_labels_reach_the_cross_entropy() -> None:
    student, teacher = normal(4, 5), normal(4, 5, seed=1)
    labels = torch.tensor([1, -1, 0, 4])
    shares = torch.nn.functional.one_hot(labels.clamp(min=0), 5)
    kept = labels >= 0
    expected = cross_entropy(student[kept], labels[kept])
    assert takd_objective(student, teacher, labels, distill_weight=0).item() == pytest.approx(expected)
    found = takd_objective(student[kept], teacher[kept], shares[kept].float(), distill_weight=0)
    assert found.item() == pytest.approx(expected)


def test_gradients_reach_every_token_and_no_teacher() -> None:
    student, first, second, one, two = (normal(4, 5, seed=i).requires_grad_() for i in range(5))
    co_advise_objective(student, [first, second], [one, two], random_labels(4, 5)).backward()
    assert all(side.grad is not None and side.grad.any() for side in (student, first, second))
    assert one.grad is None
    assert two.grad is None


def test_tokens_without_teachers_are_refused() -> None:
    with pytest.raises(UserError, match="2 tokens and 1 teachers"):
        co_advise_objective(normal(4, 5), [normal(4, 5)] * 2, [normal(4, 5)], random_labels(4, 5))
