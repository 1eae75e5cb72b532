from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_features import batch_of, method_of, stages
from understudy.methods.nst import nst_loss


def nst_by_the_formula(student: Tensor, teacher: Tensor) -> float:
    def mean_kernel(ours: np.ndarray, theirs: np.ndarray) -> float:
        return float(np.mean([np.dot(x, y) ** 2 for x, y in product(ours, theirs)]))

    def of_one_row(s: np.ndarray, t: np.ndarray) -> float:
        s, t = (x.reshape(len(x), -1) / np.linalg.norm(x.reshape(len(x), -1), axis=1)[:, None] for x in (s, t))
        return mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)

    return float(np.mean([of_one_row(*row) for row in zip(student.numpy(), teacher.numpy(), strict=True)]))


@pytest.mark.parametrize("num_channels", [2, 30], ids=["channels_by_channels", "positions_by_positions"])
@few
@given(seed=seeds, num_rows=row_counts)
def test_nst_equals_the_formula_of_the_paper(num_channels: int, seed: int, num_rows: int) -> None:
    student = normal(num_rows, num_channels, 3, 2, seed=seed)
    teacher = normal(num_rows, num_channels + 1, 3, 2, seed=seed + 1)
    expected = nst_by_the_formula(student, teacher)
    assert nst_loss(student, teacher).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@few
@given(seeds, row_counts)
def test_nst_is_zero_for_the_same_channels_in_another_order_sign_and_scale(seed: int, num_rows: int) -> None:
    teacher = normal(num_rows, 5, 4, 4, seed=seed)
    student = torch.cat([3 * teacher.flip(1), -teacher], dim=1)
    assert nst_loss(student, teacher).item() == pytest.approx(0, abs=1e-13)


def test_the_term_is_the_sum_over_stages() -> None:
    batch = batch_of(stages())
    pairs = [(batch.student_features[f"stages.{i}"], batch.teacher_features[f"stages.{i}"]) for i in (1, 2, 3)]
    expected = torch.stack([nst_loss(*pair) for pair in pairs]).sum()
    torch.testing.assert_close(method_of("nst")(batch)["nst"], expected)
