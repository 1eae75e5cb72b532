from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from helpers.examples import Array, context, few, normal, pairing, row_counts, seeds
from understudy.methods.cc import CC, Kernel, cc_kernel_loss, cc_loss
from understudy.utils.errors import UserError


@few
@given(seeds, row_counts)
def test_cc_equals_the_formula_of_neighbouring_rows(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 4, seed=seed), normal(num_rows, 4, seed=seed + 1)
    s, t = student.numpy(), teacher.numpy()
    products = [(np.abs(s[m] - t[m]) * np.abs(s[m + 1] - t[m + 1])).sum() for m in range(num_rows - 1)]
    assert cc_loss(student, teacher).item() == pytest.approx(np.mean(products), rel=1e-10)


def kernel_by_the_formula(x: Array, kernel: Kernel, gamma: float, order: int) -> Array:
    products: Array = np.array([[float(a @ b) for b in x] for a in x])
    if kernel == "bilinear":
        return products
    series = [(2 * gamma) ** p / math.factorial(p) * products**p for p in range(order + 1)]
    return np.exp(-2 * gamma) * np.sum(series, axis=0)


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
@few
@given(seed=seeds, num_rows=row_counts)
def test_kernel_cc_equals_the_formula_of_the_paper(kernel: Kernel, seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 4, seed=seed, scale=0.5), normal(num_rows, 4, seed=seed + 1, scale=0.5)
    ours, theirs = (kernel_by_the_formula(rows.numpy(), kernel, 0.3, 3) for rows in (student, teacher))
    expected = np.linalg.norm(ours - theirs)
    found = cc_kernel_loss(student, teacher, kernel=kernel, gamma=0.3, order=3, is_mean=False)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    mean = cc_kernel_loss(student, teacher, kernel=kernel, gamma=0.3, order=3)
    assert mean.item() == pytest.approx(expected / num_rows**2, rel=1e-10)


def test_the_series_nears_the_gaussian_of_unit_rows_as_its_order_grows() -> None:
    student, teacher = F.normalize(normal(5, 4), dim=1), F.normalize(normal(5, 4, seed=1), dim=1)
    ours, theirs = (torch.exp(-0.4 * torch.cdist(rows, rows).square()) for rows in (student, teacher))
    found = cc_kernel_loss(student, teacher, gamma=0.4, order=20, is_mean=False)
    torch.testing.assert_close(found, (ours - theirs).norm())


def test_squared_is_the_square_of_the_norm() -> None:
    student, teacher = normal(5, 4, scale=0.5), normal(5, 4, seed=1, scale=0.5)
    norm = cc_kernel_loss(student, teacher, is_mean=False)
    torch.testing.assert_close(cc_kernel_loss(student, teacher, is_mean=False, squared=True), norm**2)
    torch.testing.assert_close(cc_kernel_loss(student, teacher, squared=True), norm**2 / 25)


def test_permuting_the_batch_changes_the_form_of_neighbouring_rows() -> None:
    student, teacher, order = normal(4, 3), normal(4, 3, seed=1), torch.tensor([0, 2, 1, 3])
    assert not torch.isclose(cc_loss(student[order], teacher[order]), cc_loss(student, teacher))


@few
@given(seeds, row_counts)
def test_a_student_embedded_like_its_teacher_has_no_loss_and_no_gradient(seed: int, num_rows: int) -> None:
    teacher = normal(num_rows, 4, seed=seed)
    for loss in (cc_loss, cc_kernel_loss):
        student = teacher.clone().requires_grad_()
        found = loss(student, teacher)
        found.backward()
        assert found == 0
        assert student.grad is not None
        assert not student.grad.any()


@pytest.mark.parametrize("form", ["gaussian", "bilinear"])
def test_kernel_forms_take_rows_of_length_one(form: str) -> None:
    batch = pairing()
    method = CC(CC.Config.model_validate({"form": form, "embedding_dim": 3, "gamma": 0.2, "order": 1}), context())
    student = F.normalize(method.student_embedding(batch.student_features["embedding"]), dim=1)
    teacher = F.normalize(method.teacher_embedding(batch.teacher_features["embedding"]), dim=1)
    kernel: Kernel = "gaussian" if form == "gaussian" else "bilinear"
    expected = cc_kernel_loss(student, teacher, kernel=kernel, gamma=0.2, order=1)
    torch.testing.assert_close(method(batch)["cc"], expected)


def test_one_row_has_no_neighbour() -> None:
    assert cc_loss(normal(1, 3), normal(1, 3, seed=1)) == 0


def test_cc_refuses_embeddings_of_different_sizes() -> None:
    with pytest.raises(UserError, match=r"\(4, 3\).*\(4, 5\).*same number of channels"):
        cc_loss(normal(4, 3), normal(4, 5))


def test_cc_names_the_kernel_that_was_meant() -> None:
    with pytest.raises(UserError, match="did you mean gaussian"):
        cc_kernel_loss(normal(4, 3), normal(4, 3), kernel="gausian")  # type: ignore[arg-type]
