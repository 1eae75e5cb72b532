from __future__ import annotations

import numpy as np
import pytest
import torch

from understudy.core.boxes import Boxes
from understudy.core.detection import Detections
from understudy.tasks.box_ap import box_scores
from understudy.tasks.box_matches import Matches, matched


def truth(*boxes: tuple[float, float, float, float, int], crowd: tuple[int, ...] = ()) -> Boxes:
    corners = torch.tensor([box[:4] for box in boxes]).reshape(-1, 4)
    labels = torch.tensor([box[4] for box in boxes], dtype=torch.int64)
    are_crowds = torch.tensor([number in crowd for number in range(len(boxes))], dtype=torch.bool)
    return Boxes.of_image(corners, labels, (400, 400), crowd=are_crowds)


def found(*boxes: tuple[float, float, float, float, int, float]) -> Detections:
    rows = torch.tensor([box[:4] for box in boxes]).reshape(-1, 4)
    scores, labels = torch.tensor([box[5] for box in boxes]), torch.tensor([box[4] for box in boxes], dtype=torch.int64)
    return Detections(rows, scores, labels)


def drawn(seed: int, num_images: int = 12) -> Matches:
    """Seeded boxes of three classes, and detections near some of them."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> torch.Tensor:
        low = torch.rand(count, 2, generator=generator) * 60
        return torch.cat([low, low + 5 + torch.rand(count, 2, generator=generator) * 60], dim=1)

    images, detections = [], []
    for number in range(num_images):
        corners, labels = boxes(number % 4), torch.randint(0, 3, (number % 4,), generator=generator)
        images.append(truth(*[(*box, label) for box, label in zip(corners.tolist(), labels.tolist(), strict=True)]))
        near = torch.cat([corners + torch.randn(corners.shape, generator=generator) * 2, boxes(2)])
        classes = torch.cat([labels, torch.randint(0, 3, (2,), generator=generator)])
        detections.append(Detections(near, torch.rand(len(near), generator=generator), classes))
    return matched(detections, Boxes.packed(images), num_classes=3)


def test_a_perfect_detector_scores_one_and_a_blind_one_zero() -> None:
    there = truth((0, 0, 20, 20, 0), (5, 5, 60, 60, 1))
    perfect = found((0, 0, 20, 20, 0, 0.9), (5, 5, 60, 60, 1, 0.8))
    scores = box_scores(matched([perfect], there, num_classes=3))
    assert scores.scores["AP"] == pytest.approx(1)
    assert scores.scores["AP_small"] == pytest.approx(1)
    assert scores.scores["AP_large"] == -1
    assert scores.by_class.tolist() == pytest.approx([1, 1, -1])
    blind = box_scores(matched([found()], there, num_classes=3))
    assert blind.scores["AP"] == 0
    assert blind.scores["AR_100"] == 0


def test_no_box_at_all_leaves_nothing_to_measure() -> None:
    scores = box_scores(matched([found((0, 0, 9, 9, 0, 0.5))], truth(), num_classes=2))
    assert set(scores.scores.values()) == {-1}


def test_a_box_is_found_once_and_the_better_detection_finds_it() -> None:
    twice = found((0, 0, 20, 20, 0, 0.6), (0, 0, 20, 19, 0, 0.9))
    matches = matched([twice], truth((0, 0, 20, 20, 0)), num_classes=1)
    assert matches.score.tolist() == pytest.approx([0.9, 0.6])
    assert matches.is_right[:, 0].sum(axis=1).tolist() == [10, 0]
    # At 0.95 the better one fits, too; so the other is always wrong, behind full recall.
    assert box_scores(matches).scores["AP"] == pytest.approx(1)


def test_what_lies_in_a_crowd_counts_neither_way() -> None:
    there = truth((0, 0, 20, 20, 0), (100, 100, 200, 200, 0), crowd=(1,))
    some = found((0, 0, 20, 20, 0, 0.5), (110, 110, 130, 130, 0, 0.9), (150, 150, 190, 190, 0, 0.8))
    scores = box_scores(matched([some], there, num_classes=1)).scores
    assert scores["AP"] == pytest.approx(1)
    wrong = found((0, 0, 20, 20, 0, 0.5), (310, 310, 330, 330, 0, 0.9))
    assert box_scores(matched([wrong], there, num_classes=1)).scores["AP"] == pytest.approx(0.5)


def test_images_counted_by_weights_score_as_images_that_are_there_so_often() -> None:
    stretches = [drawn(seed, num_images=5) for seed in range(3)]
    once = Matches.joined(stretches)
    weights = np.repeat([2, 0, 3], 5)
    repeated = Matches.joined([stretches[0], stretches[0], *[stretches[2]] * 3])
    weighted, again = box_scores(once, weights), box_scores(repeated)
    assert weighted.scores == pytest.approx(again.scores, abs=1e-9)
    assert weighted.scores != pytest.approx(box_scores(once).scores, abs=1e-3)


def test_matches_do_not_depend_on_how_images_are_batched() -> None:
    whole = drawn(0)
    assert box_scores(Matches.joined([whole])).scores == box_scores(whole).scores
    assert 0 < box_scores(whole).scores["AP"] < 1
