"""Files of detectors: what they find is what torch finds, on pictures of another content than they were traced with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from helpers.drawn_shapes import CLASSES, SIDE, drawn_batches, small_detector, small_one_stage
from understudy.models import create_model
from understudy.models.detectors.base import Detector
from understudy.models.detectors.deployed import FoundBoxes, RawBoxes
from understudy.models.export import FORMATS, Subject, write
from understudy.models.export.agreement import boxes_difference, rows_difference
from understudy.models.export.onnx import Onnx
from understudy.models.hub import WeightsUnavailableError
from understudy.models.network import Network, Prepare
from understudy.runs.finders import sifted
from understudy.utils.errors import UserError

pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")
torch.set_num_threads(1)


def pictures(count: int = 3) -> list[Tensor]:
    (drawn,) = drawn_batches(1, count)
    return list(drawn.images.split(1))


def prepared(detector: Detector) -> nn.Module:
    return Network("fasterrcnn:any", detector, Prepare((0.4,) * 3, (0.2,) * 3), None, CLASSES, "").prepared.eval()


def decided(family: str) -> Detector:
    """A one-stage detector that has learnt nothing, but is of many minds, so that no two boxes are equally sure."""
    detector = small_one_stage(family=family)
    layer = detector.head.classification_head.cls_logits
    nn.init.normal_(layer.weight, std=2.0)
    nn.init.zeros_(layer.bias)
    return detector.eval()


def two_minded(**settings: float) -> Detector:
    """A two-stage detector that has learnt nothing, but is of many minds."""
    detector = small_detector(**settings)
    nn.init.normal_(detector.roi_heads.box_predictor.cls_score.weight, std=2.0)
    return detector.eval()


@pytest.fixture(scope="module")
def found() -> Subject:
    return Subject(
        FoundBoxes(prepared(small_detector())),
        SIDE,
        {},
        outputs=FoundBoxes.outputs,
        finds=True,
        is_ragged=True,
        is_single=True,
    )


def test_onnx_finds_what_torch_finds_on_pictures_it_was_not_traced_with(found: Subject, tmp_path: Path) -> None:
    trials = Subject(
        found.model, SIDE, {}, outputs=found.outputs, finds=True, is_ragged=True, is_single=True, trials=pictures(3)
    )
    file = write(trials, tmp_path / "student.onnx", Onnx())
    assert file.largest_difference < 1e-4
    run = Onnx().opened(file.file, 1)
    for image in (*pictures(2), torch.zeros(1, 3, SIDE, SIDE)):
        with torch.no_grad():
            boxes, labels, scores = found.model(image)
        ours = run(image)
        assert [one.dtype for one in ours] == [torch.float32, torch.int64, torch.float32]
        assert 0 < len(labels) == len(ours[1])
        assert (ours[2].diff() <= 0).all()  # the surest first
        assert int(ours[1].max()) < CLASSES  # of the data: no background among them
        assert boxes_difference([ours], [(boxes, labels, scores)], SIDE) < 1e-4


def test_a_file_that_would_find_other_boxes_is_not_written(found: Subject, tmp_path: Path) -> None:
    class Jittered(FoundBoxes):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            boxes, labels, scores = super().forward(images)
            return boxes + torch.rand(()), labels, scores

    jittered = Subject(
        Jittered(found.model.network),
        SIDE,
        {},
        outputs=found.outputs,
        finds=True,
        is_ragged=True,
        is_single=True,
        trials=pictures(1),
    )
    with pytest.raises(UserError, match=r"differs from torch by .* on images of the data"):
        write(jittered, tmp_path / "student.onnx", FORMATS["torchscript"]())
    silent = Subject(
        FoundBoxes(prepared(small_one_stage())),
        SIDE,
        {},
        outputs=found.outputs,
        finds=True,
        is_ragged=True,
        is_single=True,
        trials=pictures(1),
    )
    with pytest.raises(UserError, match="finds nothing on the 1 image that it is held against"):
        write(silent, tmp_path / "student.onnx", FORMATS["torchscript"]())
    with pytest.raises(UserError, match="--float16 is not of detectors"):
        write(found, tmp_path / "student.onnx", Onnx(float16=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_raw_boxes_and_scores_sifted_are_the_detections(family: str) -> None:
    detector = decided(family)
    assert detector.sifting is not None
    images = torch.cat(pictures(2))
    with torch.no_grad():
        maps = detector(images)
        expected = [(one.boxes, one.labels, one.scores) for one in detector.detections(maps, images)]
        boxes, scores = RawBoxes(detector)(images)
    found = [sifted(detector.sifting, *one) for one in zip(boxes, scores, strict=True)]
    assert len(expected[0][1]) > 20
    assert boxes_difference(found, expected, SIDE) < 1e-4


def test_raw_boxes_of_two_stages_are_the_detections_but_for_the_suppression_of_proposals() -> None:
    detector = two_minded(rpn_nms_thresh=1.0)  # suppresses nothing
    detector.rpn._post_nms_top_n = dict.fromkeys(detector.rpn._post_nms_top_n, 10_000)
    assert detector.sifting is not None
    images = torch.cat(pictures(2))
    with torch.no_grad():
        maps = detector(images)
        expected = [(one.boxes, one.labels, one.scores) for one in detector.detections(maps, images)]
        boxes, scores = RawBoxes(detector)(images)
    assert boxes.shape == (2, 200 + 192 + 48 + 12 + 3, CLASSES, 4)  # at most 200 of a level
    assert scores.shape == boxes.shape[:3]
    found = [sifted(detector.sifting, *one) for one in zip(boxes, scores, strict=True)]
    assert len(expected[0][1]) > 20
    assert boxes_difference(found, expected, SIDE) < 1e-5


def test_raw_boxes_without_width_or_below_the_threshold_of_proposals_are_no_boxes() -> None:
    detector = two_minded(rpn_score_thresh=0.5)
    far_right = torch.tensor([1e4, 0, 0, 0])
    with torch.no_grad():
        detector.roi_heads.box_predictor.bbox_pred.bias[4:8] = far_right  # of class 0
        boxes, scores = RawBoxes(detector)(torch.cat(pictures(2)))
        detector.rpn.score_thresh = 0.0
        _, of_all = RawBoxes(detector)(torch.cat(pictures(2)))
    assert not scores[..., 0].any()
    assert float(boxes[:, :, 0].amin()) >= 0
    assert 0 < int((scores[..., 1] > 0).sum()) < int((of_all[..., 1] > 0).sum())


@pytest.mark.parametrize("name", ["torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
def test_raw_boxes_of_two_stages_go_into_files_of_any_batch(name: str, tmp_path: Path) -> None:
    model = RawBoxes(prepared(two_minded()))
    subject = Subject(model, SIDE, {}, outputs=model.outputs, is_unordered=model.is_unordered, trials=pictures(2))
    file = write(subject, tmp_path / "student.file", FORMATS[name]())
    images = torch.cat(pictures(3))
    with torch.no_grad():
        expected = model(images)
    found = FORMATS[name]().opened(file.file, 1)(images)
    assert [one.shape for one in found] == [one.shape for one in expected]
    assert max(file.largest_difference, rows_difference([found], [expected], SIDE)) < 1e-4


def test_rows_that_rounding_swapped_agree_and_others_do_not() -> None:
    boxes, scores = torch.rand(2, 50, 3, 4) * 64, torch.rand(2, 50, 3)
    turned = (boxes.flip(1), scores.flip(1))
    assert rows_difference([turned], [(boxes, scores)], 64) == 0
    worse = scores.clone()
    worse[:, :5] += 2  # a tenth of all
    assert rows_difference([(boxes, worse)], [(boxes, scores)], 64) > 1
    assert rows_difference([(boxes + 32, scores)], [(boxes, scores)], 64) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "pt2", "torchscript", "int8"])
def test_raw_boxes_go_into_every_format_and_any_batch(name: str, tmp_path: Path) -> None:
    model = RawBoxes(prepared(small_one_stage()))
    subject = Subject(model, SIDE, {}, pictures(4), outputs=model.outputs, trials=pictures(2))
    run = FORMATS[name]().opened(write(subject, tmp_path / "student.file", FORMATS[name]()).file, 1)
    images = torch.cat(pictures(3))
    with torch.no_grad():
        expected = model(images)
    tolerance = 0.5 if name == "int8" else 1e-4
    for ours, theirs, largest in zip(run(images), expected, (SIDE, 1), strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < tolerance * largest


@pytest.mark.parametrize(("name", "message"), [("pt2", "cannot hold how many boxes"), ("int8", "no images to")])
def test_formats_that_cannot_hold_found_boxes_say_so(found: Subject, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write(found, tmp_path / "student.file", FORMATS[name]())


def test_boxes_agree_by_their_nearest_of_the_same_label() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    one = (boxes, torch.tensor([0, 1]), torch.tensor([0.9, 0.5]))
    turned = tuple(part.flip(0) for part in one)
    assert boxes_difference([one], [turned], 100) == 0
    moved = (boxes + 2, one[1], one[2])
    assert boxes_difference([moved], [one], 100) == pytest.approx(0.02)
    assert boxes_difference([(one[0], 1 - one[1], one[2])], [one], 100) == pytest.approx(0.4)  # the other's
    nothing = tuple(part[:0] for part in one)
    assert boxes_difference([nothing], [one], 100) == float("inf")
    assert boxes_difference([nothing], [nothing], 100) == 0
    many = tuple(torch.cat([part] * 100) for part in one)
    one_less = tuple(part[1:] for part in many)
    assert boxes_difference([one_less], [many], 100) == 0


def test_the_hub_that_is_away_leaves_random_weights_also_beside_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: object, **kwargs: object) -> None:
        raise WeightsUnavailableError("huggingface.co cannot be reached")

    monkeypatch.setattr("understudy.models.detectors.blueprints.hub_within_reach", away)
    made = create_model("fasterrcnn:resnet10t", num_classes=2, kwargs={"width": 8, "head_width": 8})
    assert "huggingface.co cannot be reached" in made.starts_from
    assert us.Detection(2).num_classes == made.num_classes
