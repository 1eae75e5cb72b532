from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import Array, context, few, normal, pairing, row_counts, seeds
from helpers.examples_relations import cosine
from understudy.methods.pkt import PKT, pkt_loss


def probabilities_by_the_formula(x: Array, excludes_self: bool) -> Array:
    kernel = np.array([[(cosine(a, b) + 1) / 2 for b in x] for a in x])
    if excludes_self:
        np.fill_diagonal(kernel, 0)
    return kernel / kernel.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("excludes_self", [False, True])
@few
@given(seed=seeds, num_rows=row_counts)
def test_pkt_equals_the_formula_of_the_paper(excludes_self: bool, seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 4, seed=seed), normal(num_rows, 6, seed=seed + 1)
    p = probabilities_by_the_formula(teacher.numpy(), excludes_self)
    q = probabilities_by_the_formula(student.numpy(), excludes_self)
    expected = (p * np.log((p + 1e-12) / (q + 1e-12))).mean()
    found = pkt_loss(student, teacher, eps=1e-12, excludes_self=excludes_self)
    assert found.item() == pytest.approx(expected, rel=1e-8, abs=1e-12)


@few
@given(seeds, row_counts)
def test_a_student_that_is_its_teacher_turned_and_scaled_has_no_loss(seed: int, num_rows: int) -> None:
    teacher = normal(num_rows, 4, seed=seed)
    turn, _ = torch.linalg.qr(normal(4, 4, seed=seed + 1))
    assert pkt_loss(5 * teacher @ turn, teacher, eps=1e-12).item() == pytest.approx(0, abs=1e-10)


@few
@given(seeds, row_counts)
def test_no_student_is_better_than_the_teacher_itself(seed: int, num_rows: int) -> None:
    assert pkt_loss(normal(num_rows, 4, seed=seed), normal(num_rows, 4, seed=seed + 1)).item() > -1e-9


def test_probabilities_of_the_paper_leave_out_the_sample_itself() -> None:
    student, teacher = normal(6, 4), normal(6, 4, seed=1)
    assert pkt_loss(student, teacher, excludes_self=True).item() > 1.2 * pkt_loss(student, teacher).item()
    two = pkt_loss(student[:2], teacher[:2], excludes_self=True)  # each has the other one as its only neighbour
    assert two.item() == pytest.approx(0, abs=1e-9)


def test_zero_rows_have_finite_gradients() -> None:
    features = normal(5, 4)
    features[1] = 0
    student = features.requires_grad_()
    pkt_loss(student, normal(5, 4, seed=1)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_term_of_pkt_follows_its_settings() -> None:
    batch = pairing()
    found = PKT(PKT.Config(eps=1e-3, excludes_self=True), context())(batch)["pkt"]
    student, teacher = batch.student_features["embedding"], batch.teacher_features["embedding"]
    torch.testing.assert_close(found, pkt_loss(student, teacher, eps=1e-3, excludes_self=True))
