from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import class_counts, context, few, normal, pairing, row_counts, seeds, softmax
from understudy.methods.dist_kl import DISTKL, dist_kl_loss
from understudy.methods.kd import kd_loss


@few
@given(seeds, row_counts, class_counts)
def test_dist_kl_equals_its_formula(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    q, p = softmax(student, 2.0), softmax(teacher, 2.0)
    inter = (p * np.log(p / q)).sum(axis=1).mean()
    q, p = q / q.sum(axis=0), p / p.sum(axis=0)
    intra = (p * np.log(p / q)).sum(axis=0).mean()
    found = dist_kl_loss(student, teacher, beta=0.5, gamma=3.0, tau=2.0)
    assert found.item() == pytest.approx(4 * (0.5 * inter + 3.0 * intra), rel=1e-9)


@few
@given(seeds, row_counts, class_counts)
def test_a_student_that_equals_its_teacher_has_no_loss(seed: int, num_rows: int, num_classes: int) -> None:
    logits = normal(num_rows, num_classes, seed=seed)
    assert abs(dist_kl_loss(logits, logits.clone()).item()) < 1e-12


def test_without_the_columns_it_is_kd() -> None:
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    torch.testing.assert_close(
        dist_kl_loss(student, teacher, gamma=0, tau=4.0), kd_loss(student, teacher, temperature=4.0)
    )


def test_one_prediction_alone_has_no_columns_to_compare() -> None:
    assert dist_kl_loss(normal(1, 5), normal(1, 5, seed=1), beta=0) == 0


def test_pixels_are_rows() -> None:
    student, teacher = normal(2, 6, 3, 4), normal(2, 6, 3, 4, seed=1)
    as_rows = [logits.movedim(1, -1).reshape(-1, 6) for logits in (student, teacher)]
    torch.testing.assert_close(dist_kl_loss(student, teacher), dist_kl_loss(*as_rows))


def test_terms_of_dist_kl_carry_their_weights() -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    terms = DISTKL(DISTKL.Config(beta=0.5, gamma=3.0, tau=2.0), context())(batch)
    for name, weights in {"inter": (0.5, 0.0), "intra": (0.0, 3.0)}.items():
        expected = dist_kl_loss(batch.student_logits, batch.teacher_logits, beta=weights[0], gamma=weights[1], tau=2.0)
        torch.testing.assert_close(terms[name], expected)
