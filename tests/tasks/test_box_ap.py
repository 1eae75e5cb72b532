from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from helpers.detections import found, truth
from understudy.core.boxes import Boxes
from understudy.core.detection import Detections
from understudy.tasks.box_ap import box_scores
from understudy.tasks.box_evaluation import BoxEvaluation
from understudy.tasks.box_found import best_score, found_boxes
from understudy.tasks.box_matches import Matches, matched
from understudy.tasks.box_resamples import resampled_ap

# AP and AP50 by version 2.0.11, of ten images, some of which are there several times
OF_PYCOCOTOOLS = [0.27281328132813276, 0.41128541425571125]


def drawn_pair(number: int, generator: torch.Generator) -> tuple[Boxes, Detections]:
    """Boxes of three classes, and detections near some of them."""

    def boxes(count: int) -> torch.Tensor:
        low = torch.rand(count, 2, generator=generator) * 60
        return torch.cat([low, low + 5 + torch.rand(count, 2, generator=generator) * 60], dim=1)

    corners, labels = boxes(number % 4), torch.randint(0, 3, (number % 4,), generator=generator)
    there = truth(*[(*box, label) for box, label in zip(corners.tolist(), labels.tolist(), strict=True)])
    near = torch.cat([corners + torch.randn(corners.shape, generator=generator) * 2, boxes(2)])
    classes = torch.cat([labels, torch.randint(0, 3, (2,), generator=generator)])
    return there, Detections(near, torch.rand(len(near), generator=generator), classes)


def drawn(seed: int, num_images: int = 12) -> Matches:
    generator = torch.Generator().manual_seed(seed)
    images, detections = zip(*[drawn_pair(number, generator) for number in range(num_images)], strict=True)
    return matched(list(detections), Boxes.packed(images), num_classes=3)


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


def resampled_images(num_images: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).multinomial(num_images, np.full(num_images, 1 / num_images), size=count)


def test_average_precision_of_resampled_images_is_that_of_box_scores() -> None:
    matches, weights = drawn(3, num_images=20), resampled_images(20, 6)
    expected = [box_scores(matches, row).scores for row in weights]
    assert resampled_ap(matches, weights) == pytest.approx(
        np.array([[scores["AP"], scores["AP50"]] for scores in expected]), abs=1e-12
    )
    nothing_found = matched([found()], truth((0, 0, 9, 9, 1)), num_classes=3)
    assert resampled_ap(nothing_found, np.array([[1], [0]])).tolist() == [[0, 0], [-1, -1]]


def test_average_precision_of_weighed_images_is_that_of_pycocotools_on_repeated_images() -> None:
    generator = torch.Generator().manual_seed(4)
    pairs = [drawn_pair(number, generator) for number in range(10)]
    matches = matched([one for _, one in pairs], Boxes.packed([boxes for boxes, _ in pairs]), num_classes=3)
    (weights,) = resampled_images(10, 1)
    here = resampled_ap(matches, weights[None])[0].tolist()
    assert here == pytest.approx(OF_PYCOCOTOOLS, abs=1e-8)
    if find_spec("pycocotools") is not None:
        repeated = [pair for pair, repeats in zip(pairs, weights, strict=True) for _ in range(repeats)]
        assert of_pycocotools(repeated) == pytest.approx(OF_PYCOCOTOOLS, abs=1e-8)


def of_pycocotools(pairs: list[tuple[Boxes, Detections]]) -> list[float]:
    """AP and AP50 in float64 by the reference code."""
    coco, evaluation = (import_module(f"pycocotools.{name}") for name in ("coco", "cocoeval"))

    def annotated(corners: torch.Tensor, labels: torch.Tensor, image: int) -> list[dict[str, Any]]:
        sizes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).double().tolist()
        rows = zip(sizes, labels.tolist(), strict=True)
        return [{"bbox": box, "category_id": label, "image_id": image, "area": 1, "iscrowd": 0} for box, label in rows]

    there, said = coco.COCO(), coco.COCO()
    facts = {"images": [{"id": n} for n in range(len(pairs))], "categories": [{"id": n} for n in range(3)]}
    boxes = [one for n, (b, _) in enumerate(pairs) for one in annotated(b.boxes, b.labels, n)]
    found = [one for n, (_, d) in enumerate(pairs) for one in annotated(d.boxes, d.labels, n)]
    scores = [score for _, detections in pairs for score in detections.scores.tolist()]
    found = [{**one, "score": score} for one, score in zip(found, scores, strict=True)]
    for side, listed in ((there, boxes), (said, found)):
        side.dataset = {**facts, "annotations": [{"id": n + 1, **one} for n, one in enumerate(listed)]}
        side.createIndex()
    reference = evaluation.COCOeval(there, said, "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    return reference.stats[:2].tolist()


def test_a_box_knows_the_score_that_it_was_found_with_and_sureness_is_where_f1_is_best() -> None:
    there = truth((0, 0, 20, 20, 0), (50, 50, 90, 90, 1), (200, 200, 260, 260, 1))
    some = found(
        (0, 0, 20, 20, 0, 0.9), (50, 50, 90, 88, 1, 0.6), (100, 100, 120, 120, 0, 0.5), (200, 200, 260, 255, 1, 0.1),
        (300, 300, 320, 320, 0, 0.3), (310, 300, 340, 320, 1, 0.2), (320, 300, 340, 320, 1, 0.15),
    )  # fmt: skip
    matches = matched([some], there, num_classes=2)
    assert matches.box_score.tolist() == pytest.approx([0.9, 0.6, 0.1])
    assert best_score(matches) == pytest.approx(0.6)
    assert found_boxes(matches).tolist() == [True, True, False]
    half = matched([found((0, 0, 20, 20, 0, 0.4))], there, num_classes=2)
    assert BoxEvaluation.of(half).agreement_with(BoxEvaluation.of(matches)) == pytest.approx(50)
    assert BoxEvaluation.of(matches).agreement_with(BoxEvaluation.of(half)) == pytest.approx(100)
    blind = BoxEvaluation.of(matched([found()], there, num_classes=2))
    assert BoxEvaluation.of(matches).agreement_with(blind) is None
