from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import class_counts, context, few, normal, pairing, random_labels, row_counts, seeds, softmax
from understudy.methods.dkd import dkd_loss
from understudy.methods.nkd import NKD, nkd_loss


def nkd_by_the_formula(student: Tensor, teacher: Tensor, labels: Tensor, gamma: float, temperature: float) -> float:
    total = 0.0
    for s, t, y in zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True):
        q, p = np.exp(s) / np.exp(s).sum(), np.exp(t) / np.exp(t).sum()
        others_q, others_p = (np.exp(np.delete(z, y) / temperature) for z in (s, t))
        others_q, others_p = others_q / others_q.sum(), others_p / others_p.sum()
        total -= p[y] * np.log(q[y]) + gamma * temperature**2 * (others_p * np.log(others_q)).sum()
    return total / len(labels)


@few
@given(seeds, row_counts, class_counts)
def test_nkd_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    labels = random_labels(num_rows, num_classes, seed)
    expected = nkd_by_the_formula(student, teacher, labels, 0.7, 2.0)
    assert nkd_loss(student, teacher, labels, gamma=0.7, temperature=2.0).item() == pytest.approx(expected, rel=1e-9)


@few
@given(seeds, row_counts, class_counts)
def test_the_non_target_gradient_is_that_of_dkd(seed: int, num_rows: int, num_classes: int) -> None:
    logits, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    labels = random_labels(num_rows, num_classes, seed)

    def gradient(loss: Tensor, student: Tensor) -> Tensor:
        return torch.autograd.grad(loss, student)[0]

    student = logits.requires_grad_()
    target_only = nkd_loss(student, teacher, labels, gamma=0)
    non_target = nkd_loss(student, teacher, labels, gamma=1.0, temperature=4.0) - target_only
    nckd = dkd_loss(student, teacher, labels, alpha=0, beta=1.0, temperature=4.0)
    torch.testing.assert_close(gradient(non_target, student), gradient(nckd, student), atol=1e-12, rtol=1e-9)


@few
@given(seeds, row_counts, class_counts)
def test_the_non_target_term_is_least_at_the_teachers_logits(seed: int, num_rows: int, num_classes: int) -> None:
    teacher, labels = normal(num_rows, num_classes, seed=seed), random_labels(num_rows, num_classes, seed)
    others = np.stack([np.delete(t, y) for t, y in zip(teacher.numpy(), labels.tolist(), strict=True)])
    p = softmax(torch.from_numpy(others), 3.0)
    least = 9 * -(p * np.log(p)).sum(axis=1).mean()

    def non_target(student: Tensor) -> float:
        return (nkd_loss(student, teacher, labels, gamma=1.0) - nkd_loss(student, teacher, labels, gamma=0)).item()

    assert non_target(teacher) == pytest.approx(least, rel=1e-9)
    assert non_target(teacher + normal(num_rows, num_classes, seed=seed + 1)) > least


def test_terms_of_nkd_carry_their_weights() -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    terms = NKD(NKD.Config(gamma=2.0, temperature=1.5), context())(batch)
    whole = nkd_loss(batch.student_logits, batch.teacher_logits, batch.labels, gamma=2.0, temperature=1.5)
    target = nkd_loss(batch.student_logits, batch.teacher_logits, batch.labels, gamma=0)
    torch.testing.assert_close(terms["target"], target)
    torch.testing.assert_close(terms["non_target"], whole - target)


def test_nkd_asks_for_three_classes_and_the_teachers_logits() -> None:
    assert NKD.min_classes == 3
    assert NKD.needs_for(NKD.Config()) == {"teacher_logits"}
