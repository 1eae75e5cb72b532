from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import class_counts, context, few, normal, pairing, row_counts, seeds, softmax
from understudy.methods.skd_streamlined import StreamlinedKD, skd_direction_loss, skd_streamlined_loss
from understudy.utils.errors import UserError


@few
@given(seeds, row_counts, class_counts)
def test_both_terms_equal_the_formula_of_the_paper(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    grams = []
    for side in (student.numpy(), teacher.numpy()):
        unit = side / np.linalg.norm(side, axis=1, keepdims=True)
        grams.append(unit @ unit.T)
    difference = grams[0] - grams[1]
    inverse = np.linalg.inv(np.cov(difference, rowvar=False) + 0.3 * np.eye(num_rows))
    direction = np.sqrt(np.einsum("bi,ij,bj->b", difference, inverse, difference)).mean()
    p, q = softmax(teacher, 2.0), softmax(student, 2.0)
    instance = (p * np.log(p / q)).sum(axis=1).mean()
    assert skd_direction_loss(student, teacher, tikhonov=0.3).item() == pytest.approx(direction, rel=1e-9)
    settings = {"temperature": 2.0, "tikhonov": 0.3, "instance_weight": 0.7, "direction_weight": 3.0}
    found = skd_streamlined_loss(student, teacher, form="paper", **settings)
    assert found.item() == pytest.approx(0.7 * instance + 3 * direction, rel=1e-9)


def test_the_release_has_t_squared_and_cosines_over_the_number_of_classes() -> None:
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    instance = skd_streamlined_loss(student, teacher, form="paper", direction_weight=0)
    released = skd_streamlined_loss(student, teacher)
    expected = 16 * instance + skd_direction_loss(student, teacher, divisor=5)
    torch.testing.assert_close(released, expected)
    with pytest.raises(UserError, match="form 'code' is"):
        skd_streamlined_loss(student, teacher, form="code")  # type: ignore[arg-type]


def test_with_a_large_divisor_the_direction_term_is_a_plain_distance() -> None:
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    s, t = (side / side.norm(dim=1, keepdim=True) for side in (student, teacher))
    plain = (s @ s.T - t @ t.T).norm(dim=1).mean() / 1e4 / 0.3**0.5
    found = skd_direction_loss(student, teacher, tikhonov=0.3, divisor=1e4)
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=0)


@few
@given(seeds, row_counts, class_counts)
def test_the_length_of_a_row_leaves_its_direction_as_it_is(seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    scale = 1 + normal(num_rows, 1, seed=seed + 2).abs()
    torch.testing.assert_close(skd_direction_loss(scale * student, teacher), skd_direction_loss(student, teacher))


def test_a_student_that_equals_its_teacher_stays() -> None:
    student, teacher = normal(5, 4).requires_grad_(), normal(5, 4)
    loss = skd_streamlined_loss(student, teacher)
    loss.backward()
    assert loss.abs() < 1e-12
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


def test_gradients_are_those_of_finite_differences() -> None:
    student, teacher = normal(4, 3, scale=1.0).requires_grad_(), normal(4, 3, seed=1)
    assert torch.autograd.gradcheck(lambda logits: skd_streamlined_loss(logits, teacher), student)
    assert torch.autograd.gradcheck(lambda logits: skd_streamlined_loss(logits, teacher, form="paper"), student)


def test_rows_without_a_direction_have_a_finite_gradient() -> None:
    student = normal(4, 3).float()
    student[1] = 0
    student.requires_grad_()
    skd_streamlined_loss(student, normal(4, 3, seed=1).float()).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("num_rows", [1, 8193])
def test_one_row_and_rows_beyond_memory_are_refused_with_a_way_out(num_rows: int) -> None:
    logits = torch.zeros(num_rows, 3)
    with pytest.raises(UserError, match=rf"got {num_rows}; it takes 2 to 8192, so set method.rows=local"):
        skd_streamlined_loss(logits, logits)


def test_terms_carry_their_weights() -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    sides = batch.student_logits, batch.teacher_logits
    method = StreamlinedKD(StreamlinedKD.Config(instance_weight=2, direction_weight=0.5, tikhonov=0.2), context())
    terms = method(batch)
    torch.testing.assert_close(terms["instance"], skd_streamlined_loss(*sides, instance_weight=2, direction_weight=0))
    torch.testing.assert_close(terms["direction"], 0.5 * skd_direction_loss(*sides, tikhonov=0.2, divisor=5))
    assert StreamlinedKD.min_rows(method.config) == 2
    assert StreamlinedKD.needs_for(method.config) == {"teacher_logits"}
    assert StreamlinedKD.activations == {"softmax"}
