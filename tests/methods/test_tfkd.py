from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from helpers.examples import class_counts, context, few, normal, pairing, random_labels, row_counts, seeds, softmax
from understudy.methods.tfkd import TeacherFreeKD, tfkd_loss, virtual_teacher
from understudy.utils.errors import UserError


@pytest.mark.parametrize("softens_student", [False, True])
@few
@given(seed=seeds, num_rows=row_counts, num_classes=class_counts)
def test_tfkd_equals_its_formula(softens_student: bool, seed: int, num_rows: int, num_classes: int) -> None:
    student, labels = normal(num_rows, num_classes, seed=seed), random_labels(num_rows, num_classes, seed)
    u = np.full((num_rows, num_classes), 0.05 / (num_classes - 1))
    u[np.arange(num_rows), labels.numpy()] = 0.95
    p, q = softmax(torch.from_numpy(u), 7.0), softmax(student, 7.0 if softens_student else 1.0)
    expected = (p * np.log(p / q)).sum(axis=1).mean()
    found = tfkd_loss(student, labels, correct_probability=0.95, temperature=7.0, softens_student=softens_student)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_released_objective_of_resnet18_is_a_task_weight_of_nine_tenths_and_ours_of_one() -> None:
    student, labels = normal(8, 100), random_labels(8, 100)
    soft = F.softmax(virtual_teacher(labels, student) / 20, dim=1)
    mean_over_elements = (soft * (soft.log() - F.log_softmax(student, dim=1))).mean()
    released = 0.9 * F.cross_entropy(student, labels) + 0.1 * 100 * mean_over_elements
    weights = TeacherFreeKD.default_loss
    ours = weights.task * F.cross_entropy(student, labels) + weights.distill * tfkd_loss(student, labels)
    torch.testing.assert_close(ours, released)


@few
@given(seeds, row_counts, class_counts)
def test_label_smoothing_is_cross_entropy_with_smoothed_labels(seed: int, num_rows: int, num_classes: int) -> None:
    student, labels = normal(num_rows, num_classes, seed=seed), random_labels(num_rows, num_classes, seed)
    smoothing = tfkd_loss(student, labels, regulariser="label_smoothing") + np.log(num_classes)
    torch.testing.assert_close(
        0.8 * F.cross_entropy(student, labels) + 0.2 * smoothing,
        F.cross_entropy(student, labels, label_smoothing=0.2),
    )


@few
@given(seeds, row_counts, class_counts)
def test_a_student_that_equals_the_virtual_teacher_has_no_loss(seed: int, num_rows: int, num_classes: int) -> None:
    labels = random_labels(num_rows, num_classes, seed)
    teacher = virtual_teacher(labels, normal(num_rows, num_classes))
    assert abs(tfkd_loss(teacher / 20, labels).item()) < 1e-12
    assert abs(tfkd_loss(teacher, labels, softens_student=True).item()) < 1e-12
    uniform = torch.full_like(teacher, 3.0)
    assert abs(tfkd_loss(uniform, labels, regulariser="label_smoothing").item()) < 1e-12


def test_the_virtual_teacher_is_right_with_its_probability_and_mixes_with_the_labels() -> None:
    like = normal(2, 5)
    torch.testing.assert_close(
        virtual_teacher(torch.tensor([1, 4]), like, correct_probability=0.96),
        torch.tensor([[0.01, 0.96, 0.01, 0.01, 0.01], [0.01, 0.01, 0.01, 0.01, 0.96]], dtype=torch.float64),
    )
    mixed = torch.tensor([[0, 0.6, 0, 0, 0.4]], dtype=torch.float64)
    hard = virtual_teacher(torch.tensor([1, 4]), like)
    torch.testing.assert_close(virtual_teacher(mixed, like[:1]), 0.6 * hard[:1] + 0.4 * hard[1:])


def test_the_term_has_the_regularisers_name_and_needs_no_teacher() -> None:
    batch = pairing()
    settings = {"correct_probability": 0.9, "temperature": 3.0, "softens_student": True}
    terms = TeacherFreeKD(TeacherFreeKD.Config.model_validate(settings), context())(batch)
    torch.testing.assert_close(terms["virtual_teacher"], tfkd_loss(batch.student_logits, batch.labels, **settings))
    smoothing = TeacherFreeKD(TeacherFreeKD.Config(regulariser="label_smoothing"), context())(batch)
    expected = tfkd_loss(batch.student_logits, batch.labels, regulariser="label_smoothing")
    torch.testing.assert_close(smoothing["label_smoothing"], expected)
    assert TeacherFreeKD.needs_for(TeacherFreeKD.Config()) == frozenset()


def test_unknown_regularisers_name_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean label_smoothing"):
        tfkd_loss(normal(4, 5), random_labels(4, 5), regulariser="labels_smoothing")  # type: ignore[arg-type]
