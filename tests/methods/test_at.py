from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_features import batch_of, method_of, stages
from understudy.methods.at import AttentionForm, at_loss
from understudy.utils.errors import UserError

FORMS: tuple[AttentionForm, ...] = ("code", "paper")


def at_by_the_formula(student: Tensor, teacher: Tensor, exponent: int, form: AttentionForm) -> float:
    def attention(maps: np.ndarray) -> np.ndarray:
        q = (maps**exponent).mean(axis=0) if form == "code" else (np.abs(maps) ** exponent).sum(axis=0)
        return (q / np.linalg.norm(q)).ravel()

    gaps = [attention(s) - attention(t) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    return float(np.mean([(gap**2).mean() if form == "code" else np.linalg.norm(gap) for gap in gaps]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("exponent", [1, 2, 3])
@few
@given(seed=seeds, num_rows=row_counts)
def test_at_equals_the_formula_of_the_paper(form: AttentionForm, exponent: int, seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 3, 4, 5, seed=seed), normal(num_rows, 6, 4, 5, seed=seed + 1)
    expected = at_by_the_formula(student, teacher, exponent, form)
    assert at_loss(student, teacher, exponent=exponent, form=form).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", FORMS)
@few
@given(seed=seeds, num_rows=row_counts)
def test_only_where_a_map_is_strong_matters_not_how_strong(form: AttentionForm, seed: int, num_rows: int) -> None:
    teacher = normal(num_rows, 3, 4, 4, seed=seed)
    assert at_loss(7 * teacher, teacher, form=form).item() == pytest.approx(0, abs=1e-15)
    assert at_loss(teacher.flip(3), teacher, form=form) > 1e-6


def test_the_gradient_of_the_papers_form_is_zero_at_equality() -> None:
    student = normal(2, 3, 4, 4).requires_grad_()
    at_loss(student, student.detach().clone(), form="paper").backward()
    assert student.grad is not None
    assert not student.grad.any()


def test_the_term_is_the_sum_over_stages() -> None:
    batch = batch_of(stages())
    pairs = [(batch.student_features[f"stages.{i}"], batch.teacher_features[f"stages.{i}"]) for i in (1, 2, 3)]
    expected = torch.stack([at_loss(*pair, exponent=3, form="paper") for pair in pairs]).sum()
    torch.testing.assert_close(method_of("at", exponent=3, form="paper")(batch)["at"], expected)


def test_an_unknown_form_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean paper"):
        at_loss(normal(2, 3, 4, 4), normal(2, 3, 4, 4), form="papers")  # type: ignore[arg-type]
