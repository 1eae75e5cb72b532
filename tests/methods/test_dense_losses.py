from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.examples import Array, few, normal, seeds
from understudy.methods.losses.dense import (
    ChannelNorm,
    anchor_boxes,
    cwd_loss,
    fgfi_loss,
    fgfi_mask,
    skd_pairwise_loss,
    skd_pixelwise_loss,
)
from understudy.utils.errors import UserError

sides = st.integers(1, 5)


def soft(x: Array, axis: int) -> Array:
    powers: Array = np.exp(x)
    return powers / powers.sum(axis=axis, keepdims=True)


@few
@given(seeds, sides, sides)
def test_cwd_equals_its_formula_over_positions_and_over_channels(seed: int, height: int, width: int) -> None:
    student, teacher = normal(2, 3, height, width, seed=seed), normal(2, 3, height, width, seed=seed + 1)
    for norm_type, axis, count in (("channel", 2, 2 * 3), ("spatial", 1, 2 * height * width)):
        q, p = (soft(side.flatten(2).numpy() / 2, axis) for side in (student, teacher))
        expected = 4 * (p * np.log(p / q)).sum() / count
        found = cwd_loss(student, teacher, norm_type=norm_type, temperature=2.0)
        assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("norm_type", "count"), [("channel", 2 * 3), ("spatial", 2 * 20), ("channel_mean", 2 * 3), ("none", 2 * 20)]
)
def test_cwd_by_squared_difference_has_no_temperature(norm_type: ChannelNorm, count: int) -> None:
    student, teacher = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)

    def normalised(maps: Tensor) -> Array:
        flat = maps.flatten(2).numpy()
        mappings = {"channel": soft(flat, 2), "spatial": soft(flat, 1), "channel_mean": flat.mean(axis=2), "none": flat}
        return mappings[norm_type]

    expected = ((normalised(student) - normalised(teacher)) ** 2).sum() / count
    found = cwd_loss(student, teacher, norm_type=norm_type, divergence="mse", temperature=3.0)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_cwd_is_finite_at_peaks_where_a_softmax_underflows() -> None:
    student = torch.zeros(1, 2, 3, 3)
    student[..., 0, 0] = 10_000
    student.requires_grad_()
    loss = cwd_loss(student, student.detach().flip(-1))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@few
@given(seeds, sides, sides)
def test_equal_maps_have_no_loss_but_for_the_teachers_entropy(seed: int, height: int, width: int) -> None:
    maps = normal(2, 3, height, width, seed=seed)
    assert abs(cwd_loss(maps, maps.clone()).item()) < 1e-12
    assert abs(skd_pairwise_loss(maps, maps.clone()).item()) < 1e-12
    p = soft(maps.numpy(), 1)
    assert skd_pixelwise_loss(maps, maps).item() == pytest.approx(-(p * np.log(p)).sum() / (height * width), rel=1e-9)


@few
@given(seeds, sides, sides)
def test_pixelwise_loss_sums_over_images_and_averages_over_positions(seed: int, height: int, width: int) -> None:
    student, teacher = normal(2, 3, height, width, seed=seed), normal(2, 3, height, width, seed=seed + 1)
    expected = -(soft(teacher.numpy(), 1) * np.log(soft(student.numpy(), 1))).sum() / (height * width)
    assert skd_pixelwise_loss(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def similarities_by_the_formula(maps: Tensor, height: int, width: int) -> Array:
    """Cosines between the maxima of patches, (N, patches, patches); the last patches may be cut."""
    array = maps.numpy()
    rows, columns = range(0, array.shape[2], height), range(0, array.shape[3], width)
    nodes = np.stack([array[:, :, y : y + height, x : x + width].max(axis=(2, 3)) for y in rows for x in columns], 1)
    nodes = nodes / np.linalg.norm(nodes, axis=2, keepdims=True)
    return nodes @ nodes.transpose(0, 2, 1)


@pytest.mark.parametrize(
    ("size", "scale", "patch"), [((6, 8), 0.5, (3, 4)), ((7, 5), 0.5, (3, 2)), ((3, 3), 0.1, (1, 1))]
)
def test_pairwise_loss_equals_its_formula(size: tuple[int, int], scale: float, patch: tuple[int, int]) -> None:
    student, teacher = normal(2, 3, *size), normal(2, 5, *size, seed=1)
    gap = similarities_by_the_formula(student, *patch) - similarities_by_the_formula(teacher, *patch)
    found = skd_pairwise_loss(student, teacher, scale=scale)
    assert found.item() == pytest.approx((gap**2).mean(), rel=1e-6)


def test_cirkds_pairwise_loss_has_patches_of_four_positions_and_norms_with_gradient() -> None:
    student, teacher = normal(2, 3, 5, 4).requires_grad_(), normal(2, 5, 5, 4, seed=1)
    gap = similarities_by_the_formula(student.detach(), 2, 2) - similarities_by_the_formula(teacher, 2, 2)
    found = skd_pairwise_loss(student, teacher, form="cirkd")
    assert found.item() == pytest.approx((gap**2).mean(), rel=1e-9)
    (gradient,) = torch.autograd.grad(found, student)
    assert (gradient * student.detach()).sum().item() == pytest.approx(0, abs=1e-12)  # growing changes nothing


def test_the_norms_of_the_pairwise_loss_carry_no_gradient() -> None:
    student, teacher = normal(2, 3, 4, 4).requires_grad_(), normal(2, 5, 4, 4, seed=1)
    (gradient,) = torch.autograd.grad(skd_pairwise_loss(student, teacher, scale=0.25), student)
    ours, theirs = (similarities_by_the_formula(side.detach(), 1, 1) for side in (student, teacher))
    # Growing the features by dt grows their similarities by 2 dt, norms being held.
    expected = (4 * (ours - theirs) * ours).mean()
    assert (gradient * student.detach()).sum().item() == pytest.approx(expected, rel=1e-6)


def test_anchors_are_those_of_faster_rcnn() -> None:
    anchors = anchor_boxes(scales=[8], ratios=[0.5, 1, 2])
    assert anchors.tolist() == [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]]
    assert anchor_boxes([1], [1], base_size=8).tolist() == [[0, 0, 7, 7]]


def overlap_by_the_formula(a: list[float], b: list[float]) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1 for i in range(2))
    shared = max(width, 0) * max(height, 0)
    area = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return shared / (sum(area) - shared)


@few
@given(seeds)
def test_an_anchor_counts_where_it_overlaps_by_half_of_the_best(seed: int) -> None:
    corners = torch.randint(0, 50, (2, 2), generator=torch.Generator().manual_seed(seed)).double()
    boxes = torch.cat([corners, corners + 13], dim=1)
    anchors = anchor_boxes([1, 2], [0.5, 1]).tolist()
    expected = np.zeros((3, 4), dtype=int)
    for box in boxes.tolist():
        placed = {
            (y, x, i): overlap_by_the_formula([a[0] + 16 * x, a[1] + 16 * y, a[2] + 16 * x, a[3] + 16 * y], box)
            for y in range(3)
            for x in range(4)
            for i, a in enumerate(anchors)
        }
        for (y, x, _), overlap in placed.items():
            expected[y, x] += overlap > 0.5 * max(placed.values())
    found = fgfi_mask(boxes[None], height=3, width=4, scales=[1, 2], ratios=[0.5, 1])
    assert found.tolist() == [expected.tolist()]


def test_a_row_of_zeros_ends_the_list_of_boxes_and_a_single_pixel_is_near_nothing() -> None:
    box, other, pixel, end = [10.0, 10, 40, 40, 1], [60.0, 0, 90, 30, 2], [5.0, 5, 5, 5, 1], [0.0] * 5

    def counts(*boxes: list[float]) -> list[list[list[int]]]:
        found: list[list[list[int]]] = fgfi_mask(torch.tensor([boxes]), height=4, width=6, scales=[1, 2]).tolist()
        return found

    assert counts(box, end, other) == counts(box)
    assert counts(box, pixel) == counts(box)
    assert counts(box, other) != counts(box)
    assert not np.any(counts(end, box))


def test_imitation_is_averaged_over_the_positions_of_the_mask() -> None:
    student, teacher = normal(2, 3, 4, 5).requires_grad_(), normal(2, 3, 4, 5, seed=1)
    counts = torch.zeros(2, 4, 5, dtype=torch.long)
    counts[0, 1, 2], counts[1, 3, 0] = 1, 7
    loss = fgfi_loss(student, teacher, counts)
    (gradient,) = torch.autograd.grad(loss, student)
    gap = (student - teacher).detach()
    assert loss.item() == pytest.approx((gap[0, :, 1, 2].square().sum() + gap[1, :, 3, 0].square().sum()).item() / 4)
    assert torch.equal(gradient.abs().sum(dim=1) > 0, counts > 0)


def test_an_empty_mask_gives_zero_loss_and_zero_gradient() -> None:
    student = normal(2, 3, 4, 5).requires_grad_()
    loss = fgfi_loss(student, normal(2, 3, 4, 5, seed=1), torch.zeros(2, 4, 5))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_maps_are_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (300 * normal(2, 3, 4, 4, seed=seed).to(dtype) for seed in (0, 1))
    for loss in (cwd_loss, skd_pixelwise_loss, skd_pairwise_loss):
        found = loss(student, teacher)
        assert found.dtype == torch.float32
        assert found.isfinite()
    assert fgfi_loss(student, teacher, torch.ones(2, 4, 4)).isfinite()


def test_no_gradient_flows_into_the_teacher() -> None:
    student, teacher = normal(2, 3, 4, 4).requires_grad_(), normal(2, 3, 4, 4, seed=1).requires_grad_()
    losses = [loss(student, teacher) for loss in (cwd_loss, skd_pixelwise_loss, skd_pairwise_loss)]
    torch.stack([*losses, fgfi_loss(student, teacher, torch.ones(2, 4, 4))]).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.any()


def test_what_cannot_be_compared_is_refused_with_the_way_out() -> None:
    maps = normal(2, 3, 4, 4)
    with pytest.raises(UserError, match="compares no distributions; set divergence='mse'"):
        cwd_loss(maps, maps, norm_type="none")
    with pytest.raises(UserError, match="did you mean spatial"):
        cwd_loss(maps, maps, norm_type="spacial")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown; there are: kl, mse"):
        cwd_loss(maps, maps, divergence="l1")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there are: cirkd, share"):
        skd_pairwise_loss(maps, maps, form="thirds")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="interpolate to one size"):
        skd_pairwise_loss(maps, normal(2, 3, 2, 2))
    with pytest.raises(UserError, match="adapt the student"):
        fgfi_loss(maps, normal(2, 5, 4, 4), torch.ones(2, 4, 4))
