from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import understudy as us
from helpers.drawn_shapes import CLASSES, SIDE, drawn_batches, small_detector, small_one_stage
from understudy.core.batch import IMAGES, MAIN, Batch, Observation, Pairing
from understudy.core.boxes import Boxes, imitation_masks
from understudy.core.detection import Detections
from understudy.core.tap_shapes import TapShapes
from understudy.core.taps import TappedModel
from understudy.methods.base import Context
from understudy.methods.dist import dist_loss
from understudy.methods.kd import kd_loss
from understudy.models.detectors.base import Pyramid
from understudy.tasks.box_evaluation import BoxEvaluation
from understudy.tasks.detection import FOREGROUND, Detection, DetectionConfig
from understudy.utils.errors import UserError

torch.set_num_threads(1)

TAPS = ("stages",)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return drawn_batches(1, 4)[0]


def teacher(**settings: object) -> us.LiveTeacher:
    live = us.LiveTeacher(small_detector(1, width=24), **settings)  # type: ignore[arg-type]
    live.tap(TAPS)
    return live


def paired(batch: Batch, *, seed: int = 0, settings: DetectionConfig | None = None) -> dict[str, Pairing]:
    student = TappedModel(small_detector(seed), TAPS).train()
    return Detection(CLASSES, settings=settings).pair(student, teacher().observe(batch), batch)[1]


def test_the_teachers_head_is_asked_about_what_the_student_proposes(batch: Batch) -> None:
    live = teacher()
    asked = []

    def ask(output: object, proposals: object) -> object:
        asked.append(proposals)
        assert seen.ask is not None
        return seen.ask(output, proposals)

    seen = live.observe(batch)
    student = TappedModel(small_detector(), TAPS).train()
    task_loss, pairings = Detection(CLASSES).pair(student, replace(seen, ask=ask), batch)
    main, (proposals,) = pairings[MAIN], asked
    detector = live.model.module.eval()
    expected = detector.score(seen.output, proposals).logits  # type: ignore[operator]
    torch.testing.assert_close(main.teacher_logits, expected)
    assert main.student_logits.shape == expected.shape == (len(main.labels), CLASSES + 1)
    assert main.student_logits.requires_grad
    assert task_loss.isfinite()
    assert main.is_ragged


def test_a_teacher_whose_norms_are_folded_answers_alike(batch: Batch) -> None:
    plain, folded = teacher(), teacher(fold_batch_norm=True)
    seen, again = plain.observe(batch), folded.observe(batch)
    detector = small_detector().train()
    proposals = detector.propose(detector(batch.images), batch.images, batch.targets)
    assert seen.ask is not None
    assert again.ask is not None
    assert len(folded.folded) > 0
    answers = [one.ask(one.output, proposals).logits for one in (seen, again)]
    torch.testing.assert_close(answers[1], answers[0], atol=1e-4, rtol=1e-4)
    assert not answers[0].requires_grad


def test_rows_of_objects_and_rows_of_images_lie_beside_those_of_proposals(batch: Batch) -> None:
    pairings = paired(batch)
    main, objects, images = pairings[MAIN], pairings[FOREGROUND], pairings[IMAGES]
    assert 0 < len(objects.labels) == int((main.labels < CLASSES).sum()) < len(main.labels)
    assert images.student_logits.shape == (4, 0)
    assert images.student_features["stages.0"].shape == (4, 16, 16, 16)
    assert images.teacher_features["stages.0"].shape == (4, 24, 16, 16)


def test_without_an_object_the_rows_of_objects_teach_nothing(batch: Batch) -> None:
    empty = Boxes.packed([Boxes.none((SIDE, SIDE))] * 4)
    rows = paired(replace(batch, targets=empty))[FOREGROUND]
    assert len(rows.labels) == 1
    assert rows.teacher_logits is not None
    assert torch.equal(rows.teacher_logits, rows.student_logits.detach())


def test_masks_of_objects_are_of_the_students_anchors_or_of_the_boxes(batch: Batch) -> None:
    maps = paired(batch)[IMAGES].maps
    detector = small_detector()
    levels = detector(batch.images)
    sizes = [(one.shape[2], one.shape[3]) for one in levels.values()]
    expected = imitation_masks(batch.targets, detector.anchors(levels, batch.images), sizes)
    assert list(maps) == [f"weights.stages.{level}" for level in range(5)]
    for name, mask in zip(maps, expected, strict=True):
        assert torch.equal(maps[name], mask)
    inside = paired(batch, settings=DetectionConfig(masks="boxes"))[IMAGES].maps["weights.stages.0"]
    x1, y1, x2, y2 = (batch.targets.boxes[0] / 4).tolist()
    assert inside[0, int((y1 + y2) / 2), int((x1 + x2) / 2)]
    area = sum(((box[2] - box[0]) * (box[3] - box[1]) / 16).item() for box in batch.targets[:1].boxes)
    assert 0 < inside[0].sum() <= 1.4 * area


def test_a_perfect_detector_scores_one_hundred_in_pixels_of_the_files(batch: Batch) -> None:
    class Knowing(nn.Module):
        """Finds the boxes that it was told of."""

        num_classes = CLASSES

        def anchors(self) -> None: ...

        propose = score = losses = anchors

        def detections(self, maps: object, images: torch.Tensor, sizes: torch.Tensor) -> list[object]:
            return [Detections(one.boxes, torch.ones(len(one.labels)), one.labels) for one in batch.targets.each()]

    knowing = Knowing()
    halved = replace(batch.targets, scale=torch.full((4, 2), 0.5))  # the files have twice as many pixels
    there = replace(batch, targets=replace(halved, area=4 * halved.area))
    found = Detection(CLASSES).evaluate(
        {"it": lambda _: Pyramid({}, knowing)},  # type: ignore[arg-type]
        [there],
        torch.device("cpu"),
    )["it"]
    assert found.scores["ap"] == pytest.approx(100)
    assert found.scores["ap_medium"] == pytest.approx(100)
    assert "ap_large" not in found.scores
    assert found.per_item.tolist() == [100] * 4
    assert Detection(CLASSES).nothing_to_teach(found) is None


def test_an_evaluation_comes_back_from_what_is_kept_of_it(batch: Batch) -> None:
    detector = small_detector().eval()
    found = Detection(CLASSES).evaluate({"it": lambda here: detector(here.images)}, [batch], torch.device("cpu"))["it"]
    again = Detection(CLASSES).restored({}, found.tensors())
    assert isinstance(again, BoxEvaluation)
    assert again.scores == found.scores
    assert torch.equal(again.per_item, found.per_item)
    assert "below 1 %" in (Detection(CLASSES).nothing_to_teach(found) or "")


def test_a_batch_of_boxes_moves_and_parts_as_one_of_labels_does(batch: Batch) -> None:
    part = batch.to(torch.device("cpu")).select(slice(1, 3))
    assert part.targets.num_images == 2
    assert torch.equal(part.targets.boxes, batch.targets.boxes[(batch.targets.image == 1) | (batch.targets.image == 2)])


def test_one_step_of_several_methods_is_finite(batch: Batch) -> None:
    names = {"dkd": {}, "dist": {}, "fgfi": {}, "fitnet": {"student_stages": [0, 1], "teacher_stages": [0, 1]}}
    names["reviewkd"] = {"embedding": False}
    taps = {"student_tap": "stages.1", "teacher_tap": "stages.1"}
    names["projector"] = {"spatial": True, "kl_weight": 0, **taps}
    methods = [us.methods.METHODS[name].Config.model_validate(settings) for name, settings in names.items()]
    methods.append(us.methods.METHODS["kd"].Config.model_validate({"on": FOREGROUND}))
    trainer = us.trainer(
        task=Detection(CLASSES),
        teacher=us.LiveTeacher(small_detector(1, width=24)),
        students=[us.StudentSpec(small_detector(), method=methods, accumulate=2)],
        sample=batch,
    )
    history = next(iter(trainer.fit([batch], epochs=1, val=[batch]).values()))
    (shown,) = trainer.measures.interval.values()
    terms = {
        "dkd.tckd",
        "dist.inter",
        "fgfi",
        "fitnet",
        "reviewkd.hcl",
        "projector.logsum",
        "kd.foreground",
        "proposal_accuracy",
    }
    assert terms <= shown.keys(), list(shown)
    assert all(math.isfinite(value) for value in shown.values())
    assert history[0]["val"].keys() >= {"ap", "ap50"}


def test_a_batch_of_one_image_has_rows_enough_for_methods_on_related_rows(batch: Batch) -> None:
    alone = batch.select(slice(0, 1))
    trainer = us.trainer(
        task=Detection(CLASSES),
        teacher=us.LiveTeacher(small_detector(1)),
        students=[us.StudentSpec(small_detector(frozen_norms=True), method=us.methods.METHODS["dist"].Config())],
        sample=batch,
    )
    trainer.fit([alone], epochs=1)
    assert trainer.measures.interval["dist"]["dist.inter"] > 0


def test_what_cannot_be_learnt_is_refused_in_words(batch: Batch) -> None:
    task = Detection(CLASSES)
    with pytest.raises(UserError, match=r"class 2, but there are 2 \(0\.\.1"):
        Detection(2).check_targets(replace(batch.targets, labels=torch.full_like(batch.targets.labels, 2)))
    flat = replace(batch.targets, boxes=batch.targets.boxes[:, [0, 1, 0, 3]])
    with pytest.raises(UserError, match="have no width or no height"):
        task.check_targets(flat)
    with pytest.raises(UserError, match="but got Tensor"):
        task.check_targets(torch.zeros(3))
    student = TappedModel(small_detector(), TAPS)
    with pytest.raises(UserError, match="take the live teacher"):
        task.pair(student, Observation(output={}), batch)
    with pytest.raises(UserError, match="is no detector; take fasterrcnn:BACKBONE"):
        task.pair(TappedModel(nn.Conv2d(3, 3, 1)), Observation(), batch)
    two = us.LiveTeacher(small_detector(num_classes=2))
    two.tap(())
    with pytest.raises(UserError, match="tells 2 classes apart, and the student 3"):
        task.pair(student, two.observe(batch), batch)
    with pytest.raises(UserError, match="label_smoothing nor class_weights"):
        Detection.for_data(3, label_smoothing=0.1)
    nothing = replace(batch, targets=Boxes.packed([Boxes.none((SIDE, SIDE))] * 4))
    detector = student.module.eval()
    with pytest.raises(UserError, match="has a box"):
        task.evaluate({"it": lambda here: detector(here.images)}, [nothing], torch.device("cpu"))


def test_one_stage_heads_are_compared_level_by_level_as_sigmoids(batch: Batch) -> None:
    known = us.methods.METHODS
    methods = [
        known["dist"].Config.model_validate({"on": ["p3", "p4"]}),
        known["kd"].Config.model_validate({"on": ["main", "p3"], "temperature": 1}),
        known["fgfi"].Config(),
    ]
    trainer = us.trainer(
        task=Detection(CLASSES),
        teacher=us.LiveTeacher(small_one_stage(1, width=24)),
        students=[us.StudentSpec(small_one_stage(), method=methods)],
        sample=batch,
    )
    trainer.fit([batch], epochs=1, val=[batch])
    (shown,) = trainer.measures.interval.values()
    assert {"dist.p3.inter", "dist.p4.intra", "kd", "kd.p3", "fgfi"} <= shown.keys(), list(shown)
    assert "kl_to_teacher" not in shown
    assert all(math.isfinite(value) for value in shown.values())


def test_a_level_is_compared_as_dist_and_kd_do_it_for_dense_heads(batch: Batch) -> None:
    live, student = us.LiveTeacher(small_one_stage(1)), TappedModel(small_one_stage()).train()
    live.tap(())
    pairings = Detection(CLASSES).pair(student, live.observe(batch), batch)[1]
    level = pairings["p3"]
    assert level.student_logits.shape == (4 * 8 * 8, 9 * CLASSES)
    # Fresh heads say nearly the same everywhere, where all divergences are nearly nothing.
    drawn = (torch.randn(level.student_logits.shape, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    level = replace(level, student_logits=2 * next(drawn), teacher_logits=2 * next(drawn))
    context = Context(TapShapes({}, num_classes=CLASSES), TapShapes({}, num_classes=CLASSES), num_classes=CLASSES)
    terms = us.methods.METHODS["dist"](us.methods.METHODS["dist"].Config(), context)(level)
    assert level.teacher_logits is not None
    expected = dist_loss(level.student_logits, level.teacher_logits, activation="sigmoid")
    torch.testing.assert_close(terms["inter"] + terms["intra"], expected)
    taught = us.methods.METHODS["kd"](us.methods.METHODS["kd"].Config(temperature=2), context)(level)["kd"]
    expected = kd_loss(level.student_logits, level.teacher_logits, temperature=2, activation="sigmoid")
    torch.testing.assert_close(taught, expected)


@pytest.mark.parametrize("method", ["dkd", "tfkd"])
def test_methods_on_softmaxes_refuse_heads_of_sigmoids(batch: Batch, method: str) -> None:
    trainer = us.trainer(
        task=Detection(CLASSES),
        teacher=us.LiveTeacher(small_one_stage(1)),
        students=[us.StudentSpec(small_one_stage(), method=us.methods.METHODS[method].Config())],
        sample=batch,
    )
    with pytest.raises(UserError, match=rf"'{method}' compares probabilities that sum to 1.*take kd or dist"):
        trainer.fit([batch], epochs=1)


def one_class(batch: Batch) -> Batch:
    return replace(batch, targets=replace(batch.targets, labels=torch.zeros_like(batch.targets.labels)))


@pytest.mark.parametrize("build", [small_detector, small_one_stage])
def test_detectors_of_one_class_are_distilled(batch: Batch, build: Callable[..., nn.Module]) -> None:
    batch = one_class(batch)
    trainer = us.trainer(
        task=Detection(1),
        teacher=us.LiveTeacher(build(1, num_classes=1)),
        students=[
            us.StudentSpec(build(num_classes=1), method=[us.methods.METHODS[name].Config() for name in ("kd", "fgfi")])
        ],
        sample=batch,
    )
    trainer.fit([batch], epochs=1)
    (shown,) = trainer.measures.interval.values()
    assert shown["kd"] > 0
    assert shown["fgfi"] > 0


def test_what_wants_three_classes_counts_the_background(batch: Batch) -> None:
    with pytest.raises(UserError, match="'dkd' needs at least 3 classes, but the data has 1 and the background"):
        us.trainer(
            task=Detection(1),
            teacher=us.LiveTeacher(small_detector(1, num_classes=1)),
            students=[us.StudentSpec(small_detector(num_classes=1), method=us.methods.METHODS["dkd"].Config())],
            sample=one_class(batch),
        )
