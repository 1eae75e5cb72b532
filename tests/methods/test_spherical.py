from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import class_counts, context, few, normal, pairing, random_labels, row_counts, seeds, softmax
from understudy.methods.spherical import Sphere, Spherical, spherical_loss
from understudy.utils.errors import UserError


def spherical_by_the_formula(student: Tensor, teacher: Tensor, labels: Tensor, sphere: Sphere) -> float:
    """0.9 * 16 * KL at T 4 + 0.1 * CE."""
    s, t = student.numpy(), teacher.numpy()
    if sphere == "teacher_std":
        s = s * t.std(axis=1, ddof=1, keepdims=True) / s.std(axis=1, ddof=1, keepdims=True)
    else:
        s, t = (2 * (z - z.mean(axis=1, keepdims=True)) / np.sqrt(z.var(axis=1, keepdims=True) + 1e-7) for z in (s, t))
    q, p = (softmax(torch.from_numpy(z), 4.0) for z in (s, t))
    kl = (p * np.log(p / q)).sum(axis=1).mean()
    ce = -np.log(softmax(torch.from_numpy(s))[np.arange(len(s)), labels.numpy()]).mean()
    return float(0.9 * 16 * kl + 0.1 * ce)


@pytest.mark.parametrize("sphere", ["teacher_std", "layer_norm"])
@few
@given(seed=seeds, num_rows=row_counts, num_classes=class_counts)
def test_spherical_kd_equals_its_formula(sphere: Sphere, seed: int, num_rows: int, num_classes: int) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    labels = random_labels(num_rows, num_classes, seed)
    expected = spherical_by_the_formula(student, teacher, labels, sphere)
    found = spherical_loss(student, teacher, labels, sphere=sphere)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sphere", ["teacher_std", "layer_norm"])
@few
@given(seed=seeds, num_rows=row_counts, num_classes=class_counts)
def test_scale_and_shift_of_the_student_leave_the_loss_unchanged(
    sphere: Sphere, seed: int, num_rows: int, num_classes: int
) -> None:
    student, teacher = normal(num_rows, num_classes, seed=seed), normal(num_rows, num_classes, seed=seed + 1)
    labels = random_labels(num_rows, num_classes, seed)
    scale, shift = 1 + normal(num_rows, 1, seed=seed + 2).abs(), normal(num_rows, 1, seed=seed + 3)
    found = spherical_loss(scale * student + shift, teacher, labels, sphere=sphere)
    torch.testing.assert_close(found, spherical_loss(student, teacher, labels, sphere=sphere), rtol=1e-4, atol=0)


@pytest.mark.parametrize("sphere", ["teacher_std", "layer_norm"])
def test_a_student_in_its_teachers_direction_has_no_divergence(sphere: Sphere) -> None:
    teacher = normal(6, 5)
    loss = spherical_loss(3 * teacher + 1, teacher, random_labels(6, 5), sphere=sphere, ce_weight=0)
    assert abs(loss.item()) < 1e-9


@pytest.mark.parametrize("value", [0.0, 0.3, 1000.0])
def test_a_uniform_student_row_is_finite(value: float) -> None:
    student = normal(4, 100).float()
    student[2] = value
    student.requires_grad_()
    loss = spherical_loss(student, normal(4, 100, seed=1).float(), random_labels(4, 100))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_an_offset_common_to_all_logits_costs_no_digits() -> None:
    student = (64 * normal(4, 10)).round() / 64  # exact in float32 with the offset too
    teacher, labels = normal(4, 10, seed=1), random_labels(4, 10)
    found = spherical_loss((student + 2**16).float(), teacher.float(), labels)
    torch.testing.assert_close(found.double(), spherical_loss(student, teacher, labels), rtol=1e-5, atol=0)


def test_mixed_and_missing_labels_reach_the_cross_entropy() -> None:
    student, teacher, labels = normal(4, 5), normal(4, 5, seed=1), torch.tensor([1, -1, 0, 4])
    shares = torch.nn.functional.one_hot(labels.clamp(min=0), 5).double()
    kept = labels >= 0

    def ce(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return spherical_loss(student, teacher, labels, kd_weight=0, ce_weight=1)

    torch.testing.assert_close(ce(student, teacher, labels), ce(student[kept], teacher[kept], labels[kept]))
    torch.testing.assert_close(ce(student[kept], teacher[kept], shares[kept]), ce(student, teacher, labels))


def test_terms_of_spherical_kd_carry_their_weights_and_take_the_task_losss_place() -> None:
    batch = pairing()
    assert batch.teacher_logits is not None
    settings = {"sphere": "layer_norm", "radius": 3.0, "temperature": 2.0}
    terms = Spherical(Spherical.Config.model_validate(settings | {"kd_weight": 0.5, "ce_weight": 2.0}), context())(
        batch
    )
    sides = (batch.student_logits, batch.teacher_logits, batch.labels)
    torch.testing.assert_close(terms["kd"], spherical_loss(*sides, **settings, kd_weight=0.5, ce_weight=0))
    torch.testing.assert_close(terms["ce"], spherical_loss(*sides, **settings, kd_weight=0, ce_weight=2.0))
    assert Spherical.default_loss.task == 0


def test_unknown_spheres_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean layer_norm"):
        spherical_loss(normal(4, 5), normal(4, 5), random_labels(4, 5), sphere="layernorm")  # type: ignore[arg-type]
