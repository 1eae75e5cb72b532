from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import class_counts, context, few, normal, pairing, random_labels, row_counts, seeds, softmax
from understudy.methods.logit_std import standardised
from understudy.methods.rld import RLD, rld_loss
from understudy.utils.errors import UserError


def rld_by_the_formula(student: Tensor, teacher: Tensor, labels: Tensor, t: float, alpha_t: float) -> float:
    total = 0.0
    for s, z, y in zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True):
        (q,), (p,) = softmax(torch.from_numpy(s[None]), alpha_t), softmax(torch.from_numpy(z[None]), alpha_t)
        sure, asked = p.max(), q[y]
        total += 0.7 * alpha_t**2 * (sure * np.log(sure / asked) + (1 - sure) * np.log((1 - sure) / (1 - asked)))
        below = z < z[y]
        if below.any():
            (q,), (p,) = (softmax(torch.from_numpy(side[None, below]), t) for side in (s, z))
            total += 3.0 * t**2 * (p * np.log(p / q)).sum()
    return total / len(labels)


@few
@given(seeds, row_counts, class_counts)
def test_rld_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    labels = random_labels(num_rows, num_classes, seed)
    expected = rld_by_the_formula(student, teacher, labels, 2.0, 1.5)
    settings = {"alpha": 0.7, "beta": 3.0, "temperature": 2.0, "alpha_temperature": 1.5}
    assert rld_loss(student, teacher, labels, **settings).item() == pytest.approx(expected, rel=1e-9)
    expected = rld_by_the_formula(standardised(student), standardised(teacher), labels, 2.0, 1.5)
    found = rld_loss(student, teacher, labels, **settings, standardises=True)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_a_student_that_equals_its_teacher_has_a_loss_where_the_teacher_is_wrong_alone() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]]).double()
    assert abs(rld_loss(logits, logits, torch.tensor([0, 1])).item()) < 1e-12
    assert rld_loss(logits, logits, torch.tensor([1, 1])) > 0.1
    assert abs(rld_loss(logits, logits, torch.tensor([1, 1]), alpha=0).item()) < 1e-12  # in its confidence, that is


def test_classes_that_the_teacher_ranks_above_the_label_are_not_learnt() -> None:
    student, teacher = normal(1, 6), torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]]).double()
    label = torch.tensor([2])
    other = teacher.clone()
    other[0, :2] = torch.tensor([9.0, 3.5])
    torch.testing.assert_close(
        rld_loss(student, teacher, label, alpha=0), rld_loss(student, other, label, alpha=0), rtol=0, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_label_that_is_the_teachers_last_class_leaves_nothing_to_rank(dtype: torch.dtype) -> None:
    student = normal(2, 4).to(dtype).requires_grad_()
    teacher = torch.tensor([[0.0, 1.0, 2.0, 3.0], [2.0, 2.0, 2.0, 2.0]], dtype=dtype)
    loss = rld_loss(student, teacher, torch.tensor([0, 3]), alpha=0)
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("gap", [120.0, 1000.0, 10_000.0])
def test_rld_is_finite_where_a_probability_underflows(gap: float) -> None:
    student = torch.tensor([[gap, 0.0, 1.0], [0.0, gap, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, gap, 1.0], [0.0, gap, 1.0]])
    loss = rld_loss(student, teacher, torch.tensor([2, 0]), temperature=1.0)
    loss.backward()
    assert loss.isfinite()
    assert loss > 1
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.any()


def test_gradients_are_those_of_finite_differences() -> None:
    student, teacher = normal(3, 4, scale=1.0).requires_grad_(), normal(3, 4, seed=1)
    labels = torch.tensor([1, -1, 3])
    assert torch.autograd.gradcheck(lambda logits: rld_loss(logits, teacher, labels), student)
    assert torch.autograd.gradcheck(lambda logits: rld_loss(logits, teacher, labels, standardises=True), student)


def test_rld_refuses_mixed_labels() -> None:
    with pytest.raises(UserError, match=r"rld needs one class number .*labels \(4, 5\).*turn label mixing off"):
        rld_loss(normal(4, 5), normal(4, 5), torch.full((4, 5), 0.2))


def test_terms_of_rld_carry_their_weights() -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    sides = batch.student_logits, batch.teacher_logits, batch.labels
    terms = RLD(RLD.Config(alpha=2.0, beta=0.5, alpha_temperature=4.0), context())(batch)
    torch.testing.assert_close(terms["scd"], rld_loss(*sides, alpha=2.0, beta=0.0, alpha_temperature=4.0))
    torch.testing.assert_close(terms["mcd"], rld_loss(*sides, alpha=0.0, beta=0.5))


def test_rld_asks_for_three_classes_and_hard_labels() -> None:
    assert RLD.min_classes == 3
    assert RLD.needs_for(RLD.Config()) == {"teacher_logits", "hard_labels"}
    assert RLD.activations == {"softmax"}
