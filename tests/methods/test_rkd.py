from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor

from helpers.examples import Array, context, few, normal, pairing, row_counts, seeds
from understudy.methods import rkd
from understudy.methods.rkd import RKD, rkd_angle_loss, rkd_distance_loss, rkd_loss


def smooth_l1(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def distances_by_the_formula(x: Array, power: int) -> Array:
    distances = np.array([[np.linalg.norm(a - b) ** power for b in x] for a in x])
    return distances / distances[~np.eye(len(x), dtype=bool)].mean()


def angle_by_the_formula(x: Array, i: int, j: int, k: int) -> float:
    if i in (j, k):
        return 0.0
    a, b = x[j] - x[i], x[k] - x[i]
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def rkd_by_the_formula(s: Array, t: Array, power: int) -> tuple[float, float]:
    rows = range(len(s))
    ours, theirs = distances_by_the_formula(s, power), distances_by_the_formula(t, power)
    distance = np.mean([smooth_l1(ours[i, j] - theirs[i, j]) for i in rows for j in rows])
    angles = [
        smooth_l1(angle_by_the_formula(s, i, j, k) - angle_by_the_formula(t, i, j, k))
        for i in rows
        for j in rows
        for k in rows
    ]
    return float(distance), float(np.mean(angles))


@few
@given(seeds, row_counts)
def test_rkd_equals_the_formula_of_the_paper(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 3, seed=seed), normal(num_rows, 5, seed=seed + 1)
    for power in (1, 2):
        distance, angle = rkd_by_the_formula(student.numpy(), teacher.numpy(), power)
        found = rkd_loss(student, teacher, distance_weight=0.5, angle_weight=3.0, squared=power == 2)
        assert found.item() == pytest.approx(0.5 * distance + 3.0 * angle, rel=1e-9)


@few
@given(seeds, row_counts)
def test_a_student_that_is_its_teacher_turned_moved_and_scaled_has_no_loss(seed: int, num_rows: int) -> None:
    teacher = normal(num_rows, 4, seed=seed)
    turn, _ = torch.linalg.qr(normal(4, 4, seed=seed + 1))
    assert rkd_loss(7 * teacher @ turn + 2, teacher).item() == pytest.approx(0, abs=1e-12)


def gradient_of_angles(features: Tensor, teacher: Tensor, nearest: float) -> Tensor:
    student = features.clone().requires_grad_()
    return torch.autograd.grad(rkd_angle_loss(student, teacher, nearest=nearest), student)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coinciding_rows_get_no_gradient_unless_asked_for(dtype: torch.dtype) -> None:
    student, teacher = normal(5, 4).to(dtype), normal(5, 4, seed=1).to(dtype)
    student[1] = student[0]
    assert gradient_of_angles(student, teacher, 1e-6).abs().max() < 10
    assert gradient_of_angles(student, teacher, 0.0).abs().max() > 1e9
    moved = student.clone().requires_grad_()
    rkd_loss(moved, teacher).backward()
    assert moved.grad is not None
    assert moved.grad.abs().max() < 1000


def test_angles_of_coinciding_rows_that_push_are_those_of_normalised_differences() -> None:
    features, teacher = normal(5, 4), normal(5, 4, seed=1)
    features[3] = features[1]
    student = features.clone().requires_grad_()

    def cosines(x: Tensor) -> Tensor:
        edges = F.normalize(x[None] - x[:, None], dim=2)
        return torch.einsum("ijd,ikd->ijk", edges, edges)

    expected = torch.autograd.grad(F.smooth_l1_loss(cosines(student), cosines(teacher)), student)[0]
    torch.testing.assert_close(gradient_of_angles(features, teacher, 0.0), expected)


@pytest.mark.parametrize("block_elements", [1, 100])
def test_angles_taken_in_blocks_have_the_same_loss_and_gradient(
    block_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = normal(7, 4).requires_grad_(), normal(7, 3, seed=1)
    whole = rkd_angle_loss(student, teacher)
    monkeypatch.setattr(rkd, "_BLOCK_ELEMENTS", block_elements)
    in_blocks = rkd_angle_loss(student, teacher)

    torch.testing.assert_close(in_blocks, whole)
    (expected,) = torch.autograd.grad(whole, student)
    for _ in range(2):  # as DOT does, which keeps the graph of the first of its two passes
        torch.testing.assert_close(torch.autograd.grad(in_blocks, student, retain_graph=True)[0], expected)


def test_one_row_has_no_relations() -> None:
    student = normal(1, 4).requires_grad_()
    loss = rkd_loss(student, normal(1, 4, seed=1))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_terms_of_rkd_carry_their_weights() -> None:
    batch = pairing()
    student, teacher = batch.student_features["embedding"], batch.teacher_features["embedding"]
    terms = RKD(RKD.Config(distance_weight=0.5, angle_weight=3.0, squared=True), context())(batch)
    torch.testing.assert_close(terms["distance"], 0.5 * rkd_distance_loss(student, teacher, squared=True))
    torch.testing.assert_close(terms["angle"], 3.0 * rkd_angle_loss(student, teacher))
