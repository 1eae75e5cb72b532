from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given

from helpers.examples import context, few, normal, pairing, row_counts, seeds
from understudy.methods.vkd import VkD, vkd_loss


@few
@given(seed=seeds, num_rows=row_counts)
def test_the_loss_equals_its_formula(seed: int, num_rows: int) -> None:
    student, teacher = normal(num_rows, 8, seed=seed), normal(num_rows, 8, seed=seed + 1)
    of_rows = teacher.numpy()
    centred = of_rows - of_rows.mean(axis=1, keepdims=True)
    gap = np.abs(student.numpy() - centred / np.sqrt(centred.var(axis=1, keepdims=True) + 1e-5))
    expected = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
    assert vkd_loss(student, teacher).item() == pytest.approx(float(expected))


@pytest.mark.parametrize(("channels", "wanted"), [((4, 6), (6, 4)), ((6, 4), (4, 6)), ((5, 5), (5, 5))])
def test_the_projection_stays_orthogonal_while_it_learns(channels: tuple[int, int], wanted: tuple[int, int]) -> None:
    torch.manual_seed(0)
    method = VkD(VkD.Config(), context(*channels))
    sides = torch.randn(8, channels[0]), torch.randn(8, channels[1])
    batch = dataclasses.replace(
        pairing(8), student_features={"embedding": sides[0]}, teacher_features={"embedding": sides[1]}
    )
    optimizer, before = torch.optim.SGD(method.parameters(), lr=1.0), method.projector.weight.detach().clone()
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(method(batch)["vkd"])
        losses[-1].backward()
        optimizer.step()
    weight = method.projector.weight.detach()
    assert weight.shape == wanted
    assert losses[-1] < losses[0]
    assert not torch.equal(weight, before)
    narrow = weight if weight.shape[0] <= weight.shape[1] else weight.T
    torch.testing.assert_close(narrow @ narrow.T, torch.eye(len(narrow)), atol=1e-5, rtol=0)


def test_half_types_are_projected_in_float32() -> None:
    method = VkD(VkD.Config(), context(4, 6))
    sides = {"embedding": torch.randn(8, 4).bfloat16()}, {"embedding": torch.randn(8, 6).bfloat16()}
    found = method(dataclasses.replace(pairing(8), student_features=sides[0], teacher_features=sides[1]))["vkd"]
    assert found.dtype == torch.float32
    assert found.isfinite()
