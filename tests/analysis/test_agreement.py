"""Agreement, classes and outcomes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.analysis import agreement, outcomes, per_class_accuracy
from understudy.utils.errors import UserError

LABELS = np.array([0, 0, 1, 1, 2], dtype=np.int16)
STUDENT = np.array([0, 1, 1, 1, 0], dtype=np.int16)
TEACHER = np.array([0, 0, 1, 2, 1], dtype=np.int16)


def test_agreement_counts_shared_answers_right_or_wrong():
    assert agreement(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0])) == 75


def test_agreement_reads_tensors():
    assert agreement(torch.tensor([0, 1]), torch.tensor([0, 0])) == 50


def test_per_class_accuracy_is_nan_for_a_class_without_images():
    found = per_class_accuracy(STUDENT, LABELS, num_classes=4)

    np.testing.assert_array_equal(found, [50, 100, 0, np.nan])


def test_per_class_accuracy_refuses_unlabelled_images_and_classes_outside_the_range():
    with pytest.raises(UserError, match=r"labels must be class numbers in 0\.\.2"):
        per_class_accuracy(np.array([0, 1]), np.array([-1, 1]), num_classes=3)
    with pytest.raises(UserError, match="predictions must be class numbers"):
        per_class_accuracy(np.array([0, 3]), np.array([0, 1]), num_classes=3)


def test_outcomes_name_the_images_of_each_kind():
    found = outcomes(STUDENT, TEACHER, LABELS)

    assert found.both_right.tolist() == [0, 2]
    assert found.only_student.tolist() == [3]
    assert found.only_teacher.tolist() == [1]
    assert found.both_wrong.tolist() == [4]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40))
def test_every_image_has_exactly_one_outcome(triples):
    student, teacher, labels = np.array(triples).T

    found = outcomes(student, teacher, labels)

    everything = np.concatenate([found.both_right, found.only_student, found.only_teacher, found.both_wrong])
    assert sorted(everything.tolist()) == list(range(len(triples)))
    assert found.num_images == len(triples)
    right = len(found.both_right) + len(found.only_student)
    assert right == np.count_nonzero(np.equal(student, labels))


@pytest.mark.parametrize("other", [np.zeros(3, dtype=int), np.zeros((5, 1), dtype=int)])
def test_predictions_of_other_images_are_refused(other):
    with pytest.raises(UserError, match="one and the same split"):
        outcomes(STUDENT, other, LABELS)


def test_agreement_on_no_images_is_refused():
    with pytest.raises(UserError, match="same images"):
        agreement(np.array([], dtype=int), np.array([], dtype=int))


def test_an_image_without_a_prediction_is_taken_for_no_class_and_counts_as_wrong() -> None:
    predicted, labels = [-1, 0, 1, -1], [0, 0, 1, 1]
    assert per_class_accuracy(predicted, labels, num_classes=2).tolist() == [50.0, 50.0]
