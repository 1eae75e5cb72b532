from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from helpers.examples import few, normal, row_counts, seeds
from helpers.examples_features import batch_of, method_of, stages
from understudy.methods.ickd import ickd_loss
from understudy.utils.errors import UserError


def ickd_by_the_formula(student: Tensor, teacher: Tensor) -> float:
    def correlation(row: np.ndarray) -> np.ndarray:
        flat = row.reshape(len(row), -1)
        gram = np.array([[np.dot(x, y) for y in flat] for x in flat])
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    sums = [
        ((correlation(s) - correlation(t)) ** 2).sum() for s, t in zip(student.numpy(), teacher.numpy(), strict=True)
    ]
    return float(np.sum(sums) / (len(sums) * student.shape[1]))


@few
@given(seeds, row_counts)
def test_ickd_equals_its_formula_whatever_the_sizes_of_the_maps(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 5, 3, 4, seed=seed), normal(num_rows, 5, 2, 2, seed=seed + 1)
    expected = ickd_by_the_formula(student, teacher)
    assert ickd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)
    assert ickd_loss(student, teacher, reduction="imagenet").item() == pytest.approx(expected / num_rows, rel=1e-10)


@few
@given(seeds, row_counts)
def test_ickd_is_zero_for_the_same_map_scaled_turned_and_mirrored(seed: int, num_rows: int) -> None:
    teacher = normal(num_rows, 5, 4, 4, seed=seed)
    assert ickd_loss(-2 * teacher.rot90(dims=(2, 3)), teacher).item() == pytest.approx(0, abs=1e-14)
    assert ickd_loss(teacher.flip(1), teacher) > 1e-3


def test_the_last_maps_are_compared_after_an_embedding() -> None:
    for reduction in ("cifar", "imagenet"):
        method, batch = method_of("ickd", reduction=reduction), batch_of(stages())
        embedded = method.embeddings[0](batch.student_features["stages.3"])
        expected = ickd_loss(embedded, batch.teacher_features["stages.3"], reduction=reduction)
        torch.testing.assert_close(method(batch)["ickd"], expected)


def test_unlike_channels_and_unknown_reductions_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(2, 3, 4, 4\) and \(2, 5, 4, 4\).*embed the student's"):
        ickd_loss(normal(2, 3, 4, 4), normal(2, 5, 4, 4))
    with pytest.raises(UserError, match="did you mean imagenet"):
        ickd_loss(normal(2, 3, 4, 4), normal(2, 3, 4, 4), reduction="imagenets")  # type: ignore[arg-type]
