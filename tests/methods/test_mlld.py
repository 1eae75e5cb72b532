from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from pydantic import ValidationError
from torch import Tensor

from helpers.engine import tiny_recipe
from helpers.examples import class_counts, context, few, normal, pairing, row_counts, seeds, softmax
from understudy.core.batch import Pairing
from understudy.methods.kd import kd_loss
from understudy.methods.mlld import MLLD, mlld_loss
from understudy.recipes.comparison import rows_of
from understudy.runs.checks import check_rows
from understudy.runs.components import open_components
from understudy.training.checks import check_pairing
from understudy.utils.errors import UserError

TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


def views(num_rows: int = 8, num_classes: int = 5, seed: int = 0) -> list[Tensor]:
    """Student on the weak and the strong view, then the teacher."""
    return [normal(num_rows, num_classes, seed=seed + i) for i in range(4)]


def pair_of_views(num_rows: int = 4) -> Pairing:
    copies = torch.arange(2).repeat_interleave(num_rows)
    return replace(pairing(2 * num_rows), copies=copies, labels=torch.arange(num_rows).repeat(2) % 5)


@few
@given(seeds, row_counts, class_counts)
def test_mlld_equals_the_formula_of_the_released_code(seed: int, num_rows: int, num_classes: int) -> None:
    student_weak, student_strong, teacher_weak, teacher_strong = views(num_rows, num_classes, seed)
    sure = softmax(teacher_weak)
    rows = (sure.max(axis=1) <= np.percentile(sure.max(axis=1), 50)).mean()
    classes = (sure.sum(axis=0) <= np.percentile(sure.sum(axis=0), 50)).mean()

    def kl(student: Tensor, teacher: Tensor, t: float) -> float:
        p, q = softmax(teacher, t), softmax(student, t)
        return float(t**2 * (p * np.log(p / q)).sum(axis=1).mean())

    expected = 0.0
    for number, t in enumerate(TEMPERATURES):
        expected += rows * kl(student_weak, teacher_weak, t)
        expected += kl(student_strong, teacher_strong, t) if number < 3 else kl(student_weak, teacher_weak, t)
        p, q = softmax(teacher_weak, t), softmax(student_weak, t)
        expected += classes * ((p.T @ p - q.T @ q) ** 2).sum() / num_classes
        expected += rows * ((p @ p.T - q @ q.T) ** 2).sum() / num_rows
    found = mlld_loss(student_weak, student_strong, teacher_weak, teacher_strong)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_masks_of_the_released_code_only_scale() -> None:
    student_weak, _, teacher_weak, _ = views(num_rows=8)
    masked = kd_loss(student_weak, teacher_weak, temperature=3) * torch.tensor([True, False] * 4)
    torch.testing.assert_close(masked.mean(), kd_loss(student_weak, teacher_weak, temperature=3) / 2)
    surest_last = teacher_weak * torch.linspace(0.1, 2, 8, dtype=torch.float64)[:, None]
    student = student_weak.clone()
    student[-1] += normal(5, seed=9)  # a row that a mask of unsure rows would leave out
    changed, before = (
        mlld_loss(one, one.detach(), surest_last, one.detach(), temperatures=(1.0,)) for one in (student, student_weak)
    )
    assert not torch.isclose(changed, before)


def test_the_last_two_temperatures_see_the_weak_view_unless_the_strong_one_is_asked_for() -> None:
    student_weak, student_strong, teacher_weak, teacher_strong = views()
    released, throughout = (
        mlld_loss(student_weak, student_strong, teacher_weak, teacher_strong, strong_throughout=strong)
        for strong in (False, True)
    )
    apart = sum(
        kd_loss(student_strong, teacher_strong, temperature=t) - kd_loss(student_weak, teacher_weak, temperature=t)
        for t in (2.0, 6.0)
    )
    torch.testing.assert_close(throughout - released, apart)
    three = mlld_loss(student_weak, student_strong, teacher_weak, teacher_strong, temperatures=(4, 3, 5))
    same = mlld_loss(
        student_weak, student_strong, teacher_weak, teacher_strong, temperatures=(4, 3, 5), strong_throughout=True
    )
    assert torch.equal(three, same)


def test_its_gradient_is_that_of_finite_differences() -> None:
    student_weak, student_strong, teacher_weak, teacher_strong = views(num_rows=5)
    ours = (student_weak.requires_grad_(), student_strong.requires_grad_())
    assert torch.autograd.gradcheck(lambda weak, strong: mlld_loss(weak, strong, teacher_weak, teacher_strong), ours)


def test_terms_are_of_both_views_by_their_weights_whatever_the_order_of_the_rows() -> None:
    batch = pair_of_views()
    assert batch.teacher_logits is not None
    method = MLLD(MLLD.Config(label_weight=0.3, kd_weight=0.7), context())
    terms = method(batch)
    (student, teacher) = batch.student_logits, batch.teacher_logits
    expected = 0.7 * mlld_loss(student[:4], student[4:], teacher[:4], teacher[4:])
    torch.testing.assert_close(terms["instance"] + terms["class"] + terms["batch"], expected)
    torch.testing.assert_close(terms["strong_labels"], 0.3 * F.cross_entropy(student[4:], batch.labels[4:]))
    mixed = method(batch.select(torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])))
    for name, term in terms.items():
        torch.testing.assert_close(mixed[name], term)


def test_rows_without_a_label_count_in_all_but_the_cross_entropy() -> None:
    batch, method = pair_of_views(), MLLD(MLLD.Config(), context())
    labels = batch.labels.clone()
    labels[[1, 5]] = -1
    some, all_ = method(replace(batch, labels=labels)), method(batch)
    torch.testing.assert_close(some["instance"], all_["instance"])
    kept = [4, 6, 7]
    torch.testing.assert_close(some["strong_labels"], 0.1 * F.cross_entropy(batch.student_logits[kept], labels[kept]))
    assert method(replace(batch, labels=torch.full((8,), -1)))["strong_labels"] == 0


def test_a_batch_without_two_views_is_refused_with_the_setting_that_makes_them() -> None:
    method, batch = MLLD(MLLD.Config(), context()), pair_of_views()
    check_pairing(batch, [method])
    for copies in (None, torch.arange(4).repeat_interleave(2)):
        with pytest.raises(UserError, match=r"'mlld' compares two views of each image; set data.copies=pairs"):
            check_pairing(replace(batch, copies=copies), [method])
    with pytest.raises(UserError, match=r"method 'mlld' compares two views of each image"):
        method(replace(batch, copies=None))


@pytest.mark.parametrize("copies", ["none", "rotations"])
def test_a_recipe_without_two_views_is_refused_before_it_trains(copies: str) -> None:
    recipe = tiny_recipe({"data": {"copies": copies}, "rows": ["mlld"]})
    components = open_components(recipe, allow_code=False, say=lambda note: None)
    with pytest.raises(UserError, match=r"set data.copies=pairs, and data.second_augment to what makes the second one"):
        check_rows(components, rows_of(recipe))


def test_temperatures_are_above_0() -> None:
    for wrong in ([], [4, 0]):
        with pytest.raises(ValidationError, match="must be numbers above 0, at least one"):
            MLLD.Config(temperatures=wrong)
