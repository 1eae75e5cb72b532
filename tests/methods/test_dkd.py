from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import class_counts, context, few, normal, pairing, random_labels, row_counts, seeds, softmax
from understudy.methods.dkd import DKD, dkd_loss
from understudy.methods.kd import kd_loss
from understudy.utils.errors import UserError


def dkd_by_the_formula(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float
) -> float:
    total = 0.0
    for q, p, y in zip(softmax(student, temperature), softmax(teacher, temperature), labels.tolist(), strict=True):
        tckd = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        other_p, other_q = np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y])
        total += alpha * tckd + beta * (other_p * np.log(other_p / other_q)).sum()
    return temperature**2 * total / len(labels)


@few
@given(seeds, row_counts, class_counts)
def test_dkd_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    labels = random_labels(num_rows, num_classes, seed)
    expected = dkd_by_the_formula(student, teacher, labels, 0.7, 3.0, 2.0)
    found = dkd_loss(student, teacher, labels, alpha=0.7, beta=3.0, temperature=2.0)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@few
@given(seeds, class_counts)
def test_dkd_equals_kd_when_beta_is_the_teachers_non_target_probability(seed: int, num_classes: int) -> None:
    student, teacher = normal(1, num_classes, seed=seed), normal(1, num_classes, seed=seed + 1)
    label = random_labels(1, num_classes, seed)
    beta = 1 - (teacher / 4).softmax(dim=1)[0, label].item()
    torch.testing.assert_close(dkd_loss(student, teacher, label, alpha=1, beta=beta), kd_loss(student, teacher))


@pytest.mark.parametrize("gap", [120.0, 1000.0, 10_000.0])
def test_dkd_is_finite_where_a_probability_underflows(gap: float) -> None:
    student = torch.tensor([[gap, 0.0, 1.0], [0.0, gap, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, gap, 1.0], [0.0, gap, 1.0]])

    loss = dkd_loss(student, teacher, torch.tensor([0, 1]), temperature=1.0)
    loss.backward()

    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_dkd_in_float32_keeps_the_gradient_of_a_gap_of_100() -> None:
    logits = torch.tensor([[100.0, 0.0, -1.0, 3.0]])
    teacher, labels = torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([1])

    def gradient(dtype: torch.dtype) -> Tensor:
        student = logits.to(dtype).requires_grad_()
        loss = dkd_loss(student, teacher.to(dtype), labels, temperature=1.0)
        return torch.autograd.grad(loss, student)[0]

    torch.testing.assert_close(gradient(torch.float32).double(), gradient(torch.float64), rtol=1e-5, atol=1e-6)


def test_unlabelled_rows_count_neither_in_the_sum_nor_in_the_mean() -> None:
    student, teacher, labels = normal(6, 5), normal(6, 5, seed=1), torch.tensor([3, -1, 0, 4, -1, 2])
    is_labelled = labels >= 0
    expected = dkd_loss(student[is_labelled], teacher[is_labelled], labels[is_labelled])
    torch.testing.assert_close(dkd_loss(student, teacher, labels), expected)


def test_a_batch_without_labels_gives_zero_loss_and_zero_gradient() -> None:
    student = normal(3, 5).requires_grad_()
    loss = dkd_loss(student, normal(3, 5, seed=1), torch.full((3,), -1))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_dkd_refuses_mixed_labels() -> None:
    with pytest.raises(UserError, match=r"labels \(4, 5\).*turn label mixing off"):
        dkd_loss(normal(4, 5), normal(4, 5), torch.full((4, 5), 0.2))


def test_terms_of_dkd_carry_their_weights() -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    terms = DKD(DKD.Config(alpha=2.0, beta=0.0), context())(batch)
    torch.testing.assert_close(
        terms["tckd"], dkd_loss(batch.student_logits, batch.teacher_logits, batch.labels, alpha=2.0, beta=0.0)
    )
    assert terms["nckd"] == 0


def test_dkd_asks_for_three_classes_and_hard_labels() -> None:
    assert DKD.min_classes == 3
    assert DKD.needs_for(DKD.Config()) == {"teacher_logits", "hard_labels"}
