from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import few, normal, seeds
from helpers.examples_features import CNN, batch_of, method_of, stages
from understudy.methods.kdsvd import VectorAxis, kdsvd_loss
from understudy.utils.errors import UserError

AXES: tuple[VectorAxis, ...] = ("columns", "channels")


def maps(channels: int, seed: int) -> list[Tensor]:
    return [normal(3, channels, 4, 4, seed=seed), normal(3, channels + 1, 5, 5, seed=seed + 100)]


def kdsvd_by_the_formula(student: list[Tensor], teacher: list[Tensor], k: int, axis: VectorAxis) -> float:
    def vectors(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        columns = row.reshape(-1, row.shape[2])
        _, values, vh = np.linalg.svd(columns if axis == "columns" else row.reshape(len(row), -1).T)
        return values, vh.T

    total = 0.0
    for m in range(len(student[0])):
        ours, theirs = [], []
        for s, t in zip(student, teacher, strict=True):
            (_, v_s), (values, v_t) = vectors(s[m].numpy()), vectors(t[m].numpy())
            v_t = v_t[:, :k] * np.where(v_t[:, :k].sum(axis=0) < 0, -1, 1)
            cosines = v_s[:, : k + 3].T @ v_t
            best = np.abs(cosines).argmax(axis=0)
            v_s = v_s[:, best] * np.sign(cosines[best, range(k)])
            scale = values[:k] / np.linalg.norm(values[:k])
            ours.append(v_s * scale)
            theirs.append(v_t * scale)
        relation = [np.exp(-((v[1][:, None] - v[0][None]) ** 2) / 8) for v in (ours, theirs)]
        total += ((relation[0] - relation[1]) ** 2).sum()
    return total / len(student[0])


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("num_vectors", [1, 2])
@few
@given(seed=seeds)
def test_kdsvd_equals_its_formula(axis: VectorAxis, num_vectors: int, seed: int) -> None:
    student, teacher = maps(4, seed), maps(6 if axis == "columns" else 4, seed + 1)
    expected = kdsvd_by_the_formula(student, teacher, num_vectors, axis)
    found = kdsvd_loss(student, teacher, num_vectors=num_vectors, axis=axis)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("axis", AXES)
@few
@given(seed=seeds)
def test_a_student_that_is_its_teacher_up_to_scale_has_no_loss(axis: VectorAxis, seed: int) -> None:
    teacher = maps(4, seed)
    assert kdsvd_loss([-3 * each for each in teacher], teacher, axis=axis).item() == pytest.approx(0, abs=1e-15)
    assert kdsvd_loss(maps(4, seed + 1), teacher, axis=axis) > 1e-5


def test_the_sign_of_the_teachers_map_does_not_matter() -> None:
    student, teacher = maps(4, 0), maps(6, 1)
    torch.testing.assert_close(kdsvd_loss(student, [teacher[0], -teacher[1]]), kdsvd_loss(student, teacher))


def test_given_signs_turn_the_teachers_vectors() -> None:
    student, teacher = maps(4, 0), maps(6, 1)
    up, down = [torch.ones(3, size, 1) for size in (4, 5)], [torch.ones(3, 4, 1), -torch.ones(3, 5, 1)]
    plain = kdsvd_loss(student, teacher)
    torch.testing.assert_close(kdsvd_loss(student, teacher, teacher_signs=up), plain)
    assert (kdsvd_loss(student, teacher, teacher_signs=down) - plain).abs() > 1e-6


def test_the_term_is_the_loss_over_all_stages() -> None:
    batch = batch_of(stages())
    student, teacher = (
        [features[f"stages.{i}"] for i in (1, 2, 3)] for features in (batch.student_features, batch.teacher_features)
    )
    torch.testing.assert_close(
        method_of("kdsvd", num_vectors=2)(batch)["kdsvd"], kdsvd_loss(student, teacher, num_vectors=2)
    )


def test_unlike_channels_are_refused_where_they_are_compared() -> None:
    with pytest.raises(UserError, match=r"stages.1 of the student is 4x8x8.*set method.axis to columns"):
        method_of("kdsvd", axis="channels")
    with pytest.raises(UserError, match="has 4 and the teacher's 6; take axis 'columns'"):
        kdsvd_loss(maps(4, 0), maps(6, 1), axis="channels")
    assert method_of("kdsvd", stages(CNN, CNN), axis="channels").config.axis == "channels"


def test_a_single_stage_is_refused() -> None:
    with pytest.raises(UserError, match=r"relates successive stages, but there is only stages\.2"):
        method_of("kdsvd", student_stages=[2], teacher_stages=[2])
    with pytest.raises(UserError, match="got 1 of the student and 1"):
        kdsvd_loss(maps(4, 0)[:1], maps(6, 1)[:1])


def test_an_unknown_axis_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean columns"):
        kdsvd_loss(maps(4, 0), maps(6, 1), axis="column")  # type: ignore[arg-type]


def test_more_vectors_than_a_stage_has_are_refused() -> None:
    features = maps(2, 1)
    with pytest.raises(UserError, match="num_vectors is 5, but one of these stages has 4 singular vectors"):
        kdsvd_loss(features, maps(2, 2), num_vectors=5)
