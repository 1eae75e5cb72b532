from __future__ import annotations

import pytest
import torch

from understudy.tasks.iou import class_counts, class_iou, mean_iou, pixel_accuracy
from understudy.utils.errors import UserError

LABELS = torch.tensor([[[0, 0, 1], [1, 255, -1]], [[0, 1, 1], [1, 1, 1]]])
PREDICTIONS = torch.tensor([[[0, 1, 1], [1, 0, 0]], [[0, 0, 1], [1, 1, 3]]])


def test_pixels_are_counted_by_image_and_class_and_ignored_ones_nowhere() -> None:
    counts = class_counts(PREDICTIONS, LABELS, num_classes=4)
    assert counts.dtype == torch.int64
    assert counts[0].tolist() == [[1, 1, 2], [2, 3, 2], [0, 0, 0], [0, 0, 0]]
    assert counts[1].tolist() == [[1, 2, 1], [3, 3, 5], [0, 0, 0], [0, 1, 0]]


def test_scores_are_of_all_images_together_and_absent_classes_are_left_out_or_zero() -> None:
    counts = class_counts(PREDICTIONS, LABELS, num_classes=4)
    iou = class_iou(counts)
    assert iou[:2].tolist() == [2 / 4, 5 / 8]
    assert iou[2].isnan()
    assert iou[3] == 0
    assert mean_iou(counts).item() == pytest.approx((2 / 4 + 5 / 8 + 0) / 3)
    assert mean_iou(counts, absent="zero").item() == pytest.approx((2 / 4 + 5 / 8) / 4)
    assert pixel_accuracy(counts).item() == 7 / 10


def test_maps_that_do_not_fit_and_unknown_settings_are_refused() -> None:
    with pytest.raises(UserError, match="to the size of the labels"):
        class_counts(PREDICTIONS[:, :1], LABELS, num_classes=4)
    with pytest.raises(UserError, match="there are: left_out, zero"):
        mean_iou(class_counts(PREDICTIONS, LABELS, num_classes=4), absent="one")  # type: ignore[arg-type]
