from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import Array, class_counts, context, few, normal, pairing, row_counts, seeds, softmax
from understudy.methods import dist_rank
from understudy.methods.dist_rank import DISTRank, dist_rank_loss, rank_relation, soft_ranks


def soft_ranks_by_the_formula(x: Array, temperature: float) -> Array:
    z = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6) / temperature
    found = np.ones_like(z)
    for i in range(z.shape[1]):
        for j in range(z.shape[1]):
            if j != i:
                found[:, i] += 1 / (1 + np.exp(z[:, j] - z[:, i]))
    return found


def relation_by_the_formula(s: Array, t: Array) -> float:
    return float(1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)]))


@few
@given(seeds, row_counts, class_counts)
def test_soft_ranks_equal_their_formula(seed: int, num_rows: int, num_classes: int) -> None:
    values = normal(num_rows, num_classes, seed=seed)
    found = soft_ranks(values, temperature=0.5)
    torch.testing.assert_close(found, torch.from_numpy(soft_ranks_by_the_formula(values.numpy(), 0.5)))


@few
@given(seeds, row_counts, class_counts)
def test_dist_rank_equals_its_formula(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    sides = [np.log(softmax(side, 2.0)) for side in (student, teacher)]
    inter = relation_by_the_formula(*(soft_ranks_by_the_formula(side, 0.3) for side in sides))
    intra = relation_by_the_formula(*(soft_ranks_by_the_formula(side.T, 0.3) for side in sides))
    found = dist_rank_loss(student, teacher, beta=0.5, gamma=3.0, tau=2.0, rank_temperature=0.3)
    assert found.item() == pytest.approx(0.5 * inter + 3.0 * intra, rel=1e-4, abs=2e-4)


def test_dist_rank_nears_spearmans_correlation_as_its_temperature_falls() -> None:
    student, teacher = normal(6, 12), normal(6, 12, seed=1)
    ranks = [side.numpy().argsort(axis=1).argsort(axis=1) for side in (student, teacher)]
    found = dist_rank_loss(student, teacher, gamma=0, rank_temperature=1e-4)
    assert found.item() == pytest.approx(relation_by_the_formula(*ranks), rel=1e-3)


@few
@given(seeds, row_counts, class_counts)
def test_exact_ranks_ignore_any_increasing_mapping_of_the_teacher(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    found = rank_relation(student, teacher.sinh(), temperature=1e-9)
    torch.testing.assert_close(found, rank_relation(student, teacher, temperature=1e-9))


@few
@given(seeds, row_counts, class_counts)
def test_ranks_ignore_scale_and_shift(seed: int, num_rows: int, num_classes: int) -> None:
    values, shift = normal(num_rows, num_classes, seed=seed), normal(num_rows, 1, seed=seed + 1)
    torch.testing.assert_close(soft_ranks(7 * values + shift), soft_ranks(values), rtol=1e-4, atol=1e-4)


@few
@given(seeds, row_counts, class_counts)
def test_a_student_that_equals_its_teacher_has_next_to_no_loss(seed: int, num_rows: int, num_classes: int) -> None:
    logits = normal(num_rows, num_classes, seed=seed)
    assert 0 <= dist_rank_loss(logits, logits.clone()).item() < 1e-3


def test_the_reversed_order_is_the_worst() -> None:
    values = normal(6, 5)
    assert rank_relation(-values, values).item() == pytest.approx(2, abs=1e-3)


def test_a_step_along_the_gradient_brings_the_order_nearer() -> None:
    student, teacher = normal(6, 8).requires_grad_(), normal(6, 8, seed=1)
    loss = dist_rank_loss(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert dist_rank_loss(student - 0.1 * gradient, teacher) < loss


def test_comparing_in_pieces_changes_neither_ranks_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    values, weights = normal(7, 5).requires_grad_(), normal(7, 5, seed=1)
    at_once = soft_ranks(values)
    (expected,) = torch.autograd.grad((at_once * weights).sum(), values)
    monkeypatch.setattr(dist_rank, "_PAIRS_AT_ONCE", 60)  # two rows of 25 pairs at a time
    in_pieces = soft_ranks(values)
    (found,) = torch.autograd.grad((in_pieces * weights).sum(), values)
    torch.testing.assert_close(in_pieces, at_once, rtol=0, atol=0)
    torch.testing.assert_close(found, expected)


def test_pixels_are_rows() -> None:
    student, teacher = normal(2, 6, 3, 4), normal(2, 6, 3, 4, seed=1)
    as_rows = [logits.movedim(1, -1).reshape(-1, 6) for logits in (student, teacher)]
    torch.testing.assert_close(dist_rank_loss(student, teacher), dist_rank_loss(*as_rows))


def test_terms_of_dist_rank_carry_their_weights() -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    terms = DISTRank(DISTRank.Config(beta=0.5, gamma=3.0, tau=2.0, rank_temperature=0.2), context())(batch)
    for name, (beta, gamma) in {"inter": (0.5, 0.0), "intra": (0.0, 3.0)}.items():
        expected = dist_rank_loss(
            batch.student_logits, batch.teacher_logits, beta=beta, gamma=gamma, tau=2.0, rank_temperature=0.2
        )
        torch.testing.assert_close(terms[name], expected)
