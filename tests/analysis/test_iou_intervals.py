"""Intervals of a difference in mIoU, from pixels counted image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from understudy import UserError
from understudy.analysis.iou_intervals import paired_iou_bootstrap
from understudy.tasks.iou import class_counts, mean_iou


def counts(num_wrong: float, seed: int, num_images: int = 30) -> torch.Tensor:
    """(N,C,3) of maps of which a share is wrong."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (num_images, 6, 6), generator=torch.Generator().manual_seed(9))
    is_wrong = torch.rand(labels.shape, generator=generator) < num_wrong
    return class_counts(torch.where(is_wrong, (labels + 1) % 3, labels), labels, 4)


def tables() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([counts(0.2, 1), counts(0.2, 2)]), torch.stack([counts(0.4, 3), counts(0.4, 4)])


@pytest.mark.parametrize("absent", ["left_out", "zero"])
def test_the_difference_is_that_of_the_mean_mious_and_lies_within(absent: str) -> None:
    a, b = tables()
    found = paired_iou_bootstrap(a, b, absent=absent, resamples=300)
    mious = [[100 * mean_iou(one, absent=absent).item() for one in side] for side in (a, b)]  # type: ignore[arg-type]
    assert found.difference == pytest.approx(np.mean(mious[0]) - np.mean(mious[1]), abs=1e-9)
    assert 0 < found.low < found.difference < found.high
    assert (found.num_images, found.num_seeds) == (30, 2)


def test_each_resample_adds_up_pixels_as_a_data_set_of_those_images_would() -> None:
    a, b = (side[:1] for side in tables())
    found = paired_iou_bootstrap(a, b, resamples=500, seed=1)
    generator = np.random.default_rng(5)
    points = []
    for _ in range(500):
        rows = torch.from_numpy(generator.integers(0, 30, 30))
        points.append(100 * (mean_iou(a[0][rows]) - mean_iou(b[0][rows])).item())
    low, high = np.quantile(points, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=1.0), pytest.approx(high, abs=1.0))


def test_equal_rows_differ_by_nothing_and_other_shapes_are_refused() -> None:
    a, _ = tables()
    found = paired_iou_bootstrap(a, a, resamples=20)
    assert (found.low, found.difference, found.high) == (0, 0, 0)
    with pytest.raises(UserError, match="needs two tables"):
        paired_iou_bootstrap(a, a[:, :5])
