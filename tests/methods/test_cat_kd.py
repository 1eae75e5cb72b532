from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_embeddings import NUM_CLASSES, STUDENT, built, check_half_autocast, deep_context, deep_pairing
from understudy.core.taps import TapShape
from understudy.methods.cat_kd import CATKD, cat_kd_loss
from understudy.utils.errors import UserError


@few
@given(seeds, row_counts)
def test_cat_kd_equals_the_formula_of_the_paper(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 3, 4, 4, seed=seed), normal(num_rows, 3, 8, 8, seed=seed + 1)

    def unit(maps: torch.Tensor) -> np.ndarray:
        side = maps.shape[2] // 2
        blocks = maps.numpy().reshape(num_rows, 3, 2, side, 2, side).mean(axis=(3, 5)).reshape(num_rows, 3, 4)
        return blocks / np.sqrt((blocks**2).sum(axis=2, keepdims=True))

    expected = ((unit(student) - unit(teacher)) ** 2).mean()
    assert cat_kd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_normalised_maps_are_compared_whatever_their_scale_and_others_are_not() -> None:
    maps = normal(2, 3, 4, 4)
    assert cat_kd_loss(maps, 5 * maps).item() == pytest.approx(0, abs=1e-12)
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, 2)
    expected = 16 * pooled.square().mean()
    torch.testing.assert_close(cat_kd_loss(maps, 5 * maps, normalise=False), expected)


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = normal(2, 3, 4, 4).requires_grad_(), normal(2, 3, 5, 5, seed=1)
    assert torch.autograd.gradcheck(lambda maps: cat_kd_loss(maps, teacher, resolution=3), student)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_maps_of_any_size_have_a_finite_loss_and_gradient(scale: float, dtype: torch.dtype) -> None:
    student = (scale * normal(2, 3, 4, 4)).to(dtype).requires_grad_()
    loss = cat_kd_loss(student, normal(2, 3, 4, 4, seed=1).to(dtype))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all() or dtype == torch.float16  # a gradient of 1e6 is no half number


def test_other_classes_on_one_side_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(2, 3, 4, 4\).*\(2, 5, 4, 4\); take a teacher with the student's classes"):
        cat_kd_loss(normal(2, 3, 4, 4), normal(2, 5, 4, 4))


def test_its_term_is_the_loss_of_both_sides_maps() -> None:
    context = deep_context()
    batch, method = deep_pairing(context), built(CATKD, context, resolution=1, normalise=False)
    expected = cat_kd_loss(
        batch.student_features["cam"],
        batch.teacher_features["cam"],
        resolution=1,
        normalise=False,
    )
    torch.testing.assert_close(method(batch)["cam"], expected)
    check_half_autocast(built(CATKD, context), replace(batch, teacher_logits=batch.student_logits), torch.bfloat16)


def test_a_last_map_of_a_single_place_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"the student's last map has a single one; take larger images"):
        built(CATKD, deep_context(student=(*STUDENT[:-1], TapShape(6, 1, 1))))
    assert CATKD.needs_for(CATKD.Config()) == {"teacher_logits"}
    assert NUM_CLASSES == 5
