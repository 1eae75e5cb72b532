from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_relations import built, rotated_pairing
from understudy.methods.sp import sp_loss


@few
@given(seeds, row_counts)
def test_sp_equals_the_formula_of_the_paper(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 3, 2, 2, seed=seed), normal(num_rows, 4, 3, 3, seed=seed + 1)
    matrices = []
    for features in (student, teacher):
        gram = np.array([[(a * b).sum() for b in features.numpy()] for a in features.numpy()])
        matrices.append(gram / np.linalg.norm(gram, axis=1, keepdims=True))
    expected = ((matrices[0] - matrices[1]) ** 2).sum() / num_rows**2
    assert sp_loss(student, teacher).item() == pytest.approx(expected, rel=1e-9)


@few
@given(seeds, row_counts, st.floats(0.1, 10))
def test_a_student_that_is_its_teacher_turned_and_scaled_has_no_loss(seed: int, num_rows: int, scale: float) -> None:
    teacher = normal(num_rows, 4, seed=seed)
    turn, _ = torch.linalg.qr(normal(4, 4, seed=seed + 1))
    assert sp_loss(scale * teacher @ turn, teacher).item() == pytest.approx(0, abs=1e-12)


def test_stages_are_paired_in_the_order_given() -> None:
    batch = rotated_pairing()
    found = built("sp", student_stages=[0, -1], teacher_stages=["stages.1", 0])(batch)["sp"]
    ours, theirs = batch.student_features, batch.teacher_features
    expected = sp_loss(ours["stages.0"], theirs["stages.1"]) + sp_loss(ours["stages.1"], theirs["stages.0"])
    torch.testing.assert_close(found, expected)


def test_the_last_stage_alone_is_the_default() -> None:
    batch = rotated_pairing()
    expected = sp_loss(batch.student_features["stages.1"], batch.teacher_features["stages.1"])
    torch.testing.assert_close(built("sp")(batch)["sp"], expected)
