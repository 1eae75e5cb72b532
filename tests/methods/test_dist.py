from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import Array, class_counts, context, few, normal, pairing, row_counts, seeds, softmax
from understudy.methods.dist import DIST, EpsMode, dist_loss, inter_class_relation, intra_class_relation
from understudy.utils.errors import UserError


def relation_by_the_formula(student: Array, teacher: Array) -> float:
    """1 - mean over rows of Pearson's correlation, as NumPy knows it."""
    return float(1 - np.mean([np.corrcoef(s, t)[0, 1] for s, t in zip(student, teacher, strict=True)]))


@few
@given(seeds, row_counts, class_counts)
def test_dist_equals_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    p, q = softmax(student, 4.0), softmax(teacher, 4.0)
    expected = 0.5 * relation_by_the_formula(p, q) + 3.0 * relation_by_the_formula(p.T, q.T)
    found = dist_loss(student, teacher, beta=0.5, gamma=3.0, tau=4.0, scale_by_tau_squared=False, eps_mode="cosine")
    assert found.item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_the_authors_eps_moves_an_ordinary_batch_by_less_than_a_thousandth() -> None:
    student, teacher = normal(8, 10), normal(8, 10, seed=1)
    torch.testing.assert_close(
        dist_loss(student, teacher), dist_loss(student, teacher, eps_mode="cosine"), rtol=1e-3, atol=0
    )


def test_tau_squared_is_the_only_difference_between_code_and_paper() -> None:
    student, teacher = normal(8, 10), normal(8, 10, seed=1)
    paper = dist_loss(student, teacher, tau=4.0, scale_by_tau_squared=False)
    torch.testing.assert_close(dist_loss(student, teacher, tau=4.0), 16 * paper)


@pytest.mark.parametrize("eps_mode", ["product", "cosine"])
@few
@given(seed=seeds, num_rows=row_counts, num_classes=class_counts)
def test_relations_ignore_scale_and_shift_of_the_student(
    eps_mode: EpsMode, seed: int, num_rows: int, num_classes: int
) -> None:
    student = normal(num_rows, num_classes, seed=seed, scale=1.0).softmax(dim=1)
    teacher = normal(num_rows, num_classes, seed=seed + 1, scale=1.0).softmax(dim=1)
    scale, shift = 1 + normal(num_rows, 1, seed=seed + 2).abs(), normal(num_rows, 1, seed=seed + 3)

    inter = inter_class_relation(scale * student + shift, teacher, eps_mode=eps_mode)
    intra = intra_class_relation((scale * student + shift).T, teacher.T, eps_mode=eps_mode)

    expected = inter_class_relation(student, teacher, eps_mode=eps_mode)
    torch.testing.assert_close(inter, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(intra, expected, rtol=1e-3, atol=1e-4)


def test_the_authors_eps_leaves_a_perfect_student_a_loss_of_less_than_a_thousandth() -> None:
    logits = normal(8, 10, scale=1.0)
    assert 0 < dist_loss(logits, logits).item() < 1e-3


def test_relations_see_a_negative_scale() -> None:
    probabilities = normal(4, 5).softmax(dim=1)
    assert inter_class_relation(-probabilities, probabilities, eps_mode="cosine").item() == pytest.approx(2)
    assert intra_class_relation(-probabilities, probabilities, eps_mode="cosine").item() == pytest.approx(2)


def test_cosine_eps_keeps_the_columns_of_rare_classes() -> None:
    perfect = normal(8, 1000, scale=6.0).softmax(dim=1)
    assert intra_class_relation(perfect, perfect).item() > 0.5
    assert intra_class_relation(perfect, perfect, eps_mode="cosine").item() < 0.01


def gradient_of_dist(logits: Tensor, teacher: Tensor, eps_mode: EpsMode) -> Tensor:
    student = logits.clone().requires_grad_()
    return torch.autograd.grad(dist_loss(student, teacher, eps_mode=eps_mode), student)[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("eps_mode", ["product", "cosine"])
def test_a_uniform_student_in_half_precision_gives_no_nan(dtype: torch.dtype, eps_mode: EpsMode) -> None:
    student, teacher = torch.zeros(8, 1000, dtype=dtype), normal(8, 1000).to(dtype)
    assert dist_loss(student, teacher, eps_mode=eps_mode).isfinite()
    assert gradient_of_dist(student, teacher, eps_mode).isfinite().all()


def test_a_uniform_row_has_the_same_gradient_in_float32_as_in_float64() -> None:
    student, teacher = normal(8, 10).float(), normal(8, 10, seed=1).float()
    student[2] = 0.3
    exact = gradient_of_dist(student.double(), teacher.double(), "product")
    found = gradient_of_dist(student, teacher, "product").double()
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_one_row_gives_the_constant_intra_relation_of_one() -> None:
    student = normal(1, 6).requires_grad_()
    loss = dist_loss(student, normal(1, 6, seed=1), beta=0.0)
    loss.backward()
    assert loss == 1
    assert student.grad is not None
    assert not student.grad.any()


def test_pixels_are_rows() -> None:
    student, teacher = normal(2, 6, 3, 4), normal(2, 6, 3, 4, seed=1)
    as_rows = [logits.movedim(1, -1).reshape(-1, 6) for logits in (student, teacher)]
    torch.testing.assert_close(dist_loss(student, teacher), dist_loss(*as_rows))


def test_dist_names_the_eps_mode_that_was_meant() -> None:
    with pytest.raises(UserError, match="did you mean cosine"):
        dist_loss(normal(4, 5), normal(4, 5), eps_mode="cosin")  # type: ignore[arg-type]


def test_terms_of_dist_carry_their_weights() -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    terms = DIST(DIST.Config(beta=0.5, gamma=3.0, tau=2.0), context())(batch)
    for name, weights in {"inter": (0.5, 0.0), "intra": (0.0, 3.0)}.items():
        expected = dist_loss(batch.student_logits, batch.teacher_logits, beta=weights[0], gamma=weights[1], tau=2.0)
        torch.testing.assert_close(terms[name], expected)


def test_dist_relates_rows_and_so_needs_two() -> None:
    assert DIST.rows == "related"
    assert DIST.min_rows(DIST.Config()) == 2
