"""Detectors with queries: transformers' own numbers and losses, and rows by labelled box."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from helpers.drawn_shapes import CLASSES, SIDE, drawn_batches, small_detector
from helpers.query_configs import CONFIGS, DETR
from understudy.core.boxes import Boxes
from understudy.methods import METHODS
from understudy.models import create_model, save_student
from understudy.models.detectors.assignment import assigned
from understudy.models.detectors.deployed import FoundBoxes, RawBoxes
from understudy.models.detectors.query import QueryDetector
from understudy.models.export import FORMATS, Subject, write
from understudy.runs.finders import sifted
from understudy.tasks import DetectionConfig
from understudy.utils.errors import UserError

transformers = pytest.importorskip("transformers", reason="needs pip install 'understudy[hf]'")
torch.set_num_threads(1)

kinds = pytest.mark.parametrize("kind", list(CONFIGS))


def made(kind: str, seed: int = 0) -> QueryDetector:
    torch.manual_seed(seed)
    network = create_model("hf:mine", num_classes=CLASSES, weights="none", kwargs=CONFIGS[kind]).module
    assert isinstance(network, QueryDetector)
    if kind != "detr":  # no two positions are equally likely, as after training
        nn.init.normal_(network.model.enc_score_head.weight)
    return network


def batch() -> tuple[Tensor, Boxes]:
    (drawn,) = drawn_batches(1, 3)
    return drawn.images, drawn.targets


@kinds
def test_what_is_said_of_maps_is_what_transformers_says_of_images(kind: str) -> None:
    detector, (images, _) = made(kind).eval(), batch()
    (network,) = detector._network
    with torch.no_grad():
        expected = network(images)
        maps = detector(images)
        found = detector._decoded(maps, None)
    assert list(maps) == (["p5"] if kind == "detr" else ["p3", "p4", "p5"])
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.boxes, expected.pred_boxes)
    assert detector.state_dict().keys() == network.state_dict().keys()


def test_the_loss_is_transformers_criterion() -> None:
    detector, (images, boxes) = made("detr"), batch()
    detector.eval()  # no dropout, so that both passes are alike
    maps = detector(images)
    proposals = detector.propose(maps, images, boxes)
    (loss,) = detector.losses(proposals, detector.score(maps, proposals)).values()
    shares = [
        torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1) / SIDE
        for one in boxes.each()
        for x1, y1, x2, y2 in [one.boxes.unbind(1)]
    ]
    labels = [{"class_labels": one.labels, "boxes": where} for one, where in zip(boxes.each(), shares, strict=True)]
    assert loss.item() == pytest.approx(detector._network[0](images, labels=labels).loss.item(), rel=1e-5)


@kinds
def test_rows_are_labelled_boxes_and_both_sides_answer_by_their_own_queries(kind: str) -> None:
    student, teacher, (images, boxes) = made(kind), made(kind, 1).eval(), batch()
    maps = student.train()(images)
    proposals = student.propose(maps, images, boxes)
    scored = student.score(maps, proposals)
    with torch.no_grad():
        taught = teacher.answer(teacher(images), proposals)
    columns = CLASSES + 1 if kind == "detr" else CLASSES
    assert torch.equal(proposals.labels, boxes.labels)
    assert scored.logits.shape == taught.logits.shape == (len(boxes.labels), columns)
    assert scored.activation == ("softmax" if kind == "detr" else "sigmoid")
    sum(student.losses(proposals, scored).values()).backward()
    assert any(part.grad is not None and part.grad.abs().sum() > 0 for part in student.parameters())
    empty = Boxes.packed([Boxes.none((SIDE, SIDE))] * 3)
    alone = student.propose(maps, images, empty)
    assert len(student.score(maps, alone).logits) == 1
    assert not alone.is_object.any()


def test_the_assignment_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    sure = torch.rand(1, 4, CLASSES, generator=generator)
    boxes = 0.1 + 0.3 * torch.rand(1, 4, 4, generator=generator)
    labels, labelled = torch.tensor([0, 2, 2]), 0.1 + 0.3 * torch.rand(3, 4, generator=generator)
    (found,) = assigned(sure, boxes, [labels], [labelled])

    def cost(queries: tuple[int, ...]) -> float:
        total = 0.0
        for query, label, box in zip(queries, labels.tolist(), labelled, strict=True):
            x, y = (torch.stack([one[:2] - one[2:] / 2, one[:2] + one[2:] / 2]) for one in (boxes[0, query], box))
            inner = (torch.minimum(x[1], y[1]) - torch.maximum(x[0], y[0])).clamp(min=0).prod()
            union = (x[1] - x[0]).prod() + (y[1] - y[0]).prod() - inner
            hull = (torch.maximum(x[1], y[1]) - torch.minimum(x[0], y[0])).prod()
            overlap = inner / union - (hull - union) / hull
            total += float(5 * (boxes[0, query] - box).abs().sum() - sure[0, query, label] - 2 * overlap)
        return total

    assert tuple(found.tolist()) == min(permutations(range(4), 3), key=cost)
    with pytest.raises(UserError, match="3 boxes, and the detector 2 queries"):
        assigned(sure[:, :2], boxes[:, :2], [labels], [labelled])


@pytest.mark.parametrize(("kind", "methods"), [("detr", ("kd", "dkd", "dist")), ("rt_detr", ("dist",))])
def test_methods_on_rows_and_on_maps_go_into_one_training(kind: str, methods: tuple[str, ...]) -> None:
    (drawn,) = drawn_batches(1, 3)
    names = (*methods, "fgfi", "fitnet")
    trainer = us.trainer(
        task=us.Detection(CLASSES, settings=DetectionConfig(masks="boxes")),
        teacher=us.LiveTeacher(made(kind, 1)),
        students=[us.StudentSpec(made(kind), method=[METHODS[name].Config()], name=name) for name in names],
        sample=drawn,
    )
    history = trainer.fit([drawn], epochs=1)
    assert all(history[name][-1]["train"]["distill"] > 0 for name in names)


def test_teachers_of_other_families_are_refused_on_rows_and_taken_on_maps() -> None:
    images, boxes = batch()
    student, teacher = made("rt_detr"), small_detector(1)
    maps = student(images)
    proposals = student.propose(maps, images, boxes)
    with pytest.raises(UserError, match="the student is of another family; take a teacher of the student's family"):
        teacher.answer(teacher(images), proposals)
    with pytest.raises(UserError, match="answers about labelled boxes as another one of its kind asks"):
        made("detr").answer(made("detr")(images), proposals)
    with pytest.raises(UserError, match=r"set detection\.masks: boxes"):
        student.anchors(maps, images)
    (drawn,) = drawn_batches(1, 3)
    with pytest.raises(UserError, match="or a detector of another family, which cannot be asked about the student's"):
        us.trainer(
            task=us.Detection(CLASSES),
            teacher=us.LiveTeacher(teacher),
            students=[us.StudentSpec(student, method=METHODS["dist"].Config())],
            sample=drawn,
        ).fit([drawn], epochs=1)
    fitnet = METHODS["fitnet"].Config(student_stages=[0, 1, 2], teacher_stages=[1, 2, 3])  # p3, p4, p5 of both
    trainer = us.trainer(
        task=us.Detection(CLASSES),
        teacher=us.LiveTeacher(teacher),
        students=[us.StudentSpec(student, method=fitnet, name="fitnet")],
        sample=drawn,
    )
    assert trainer.fit([drawn], epochs=1)["fitnet"][-1]["train"]["distill"] > 0


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_a_students_folder_is_read_by_understudy_and_by_transformers(kind: str, tmp_path: Path) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    network = create_model("hf:mine", num_classes=CLASSES, weights="none", mean=mean, std=std, kwargs=CONFIGS[kind])
    save_student(tmp_path, network, ["a", "b", "c"])
    pixels = torch.randint(0, 256, (3, SIDE, 2 * SIDE), dtype=torch.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    images = torch.as_tensor(processor(images=pixels, return_tensors="pt")["pixel_values"])
    torch.testing.assert_close(images, network.prepare(pixels[None] / 255))
    ours, theirs = us.load_student(tmp_path), transformers.AutoModelForObjectDetection.from_pretrained(tmp_path).eval()
    again = create_model(f"hf:{tmp_path}", num_classes=CLASSES)
    teacher = again.module.eval()
    with torch.no_grad():
        expected = theirs(images).logits
        maps = teacher(images)
        assert torch.equal(teacher._decoded(maps, None).logits, expected)
        maps = ours(pixels[None] / 255)
        torch.testing.assert_close(maps.detector._decoded(maps, None).logits, expected)
    assert again.mean == pytest.approx(mean, abs=1e-5)
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_published_weights_for_more_columns_are_read_by_those_of_the_classes(tmp_path: Path) -> None:
    wide = create_model("hf:mine", num_classes=5, weights="none", kwargs=DETR)
    save_student(tmp_path, wide, ["N/A", "a", "N/A", "b", "c"])
    narrow = create_model(f"hf:{tmp_path}", num_classes=CLASSES).module.eval()
    images, _ = batch()
    with torch.no_grad():
        expected = wide.module.eval()._decoded(wide.module(images), None).logits[..., [1, 3, 4, 5]]
        found = narrow._by_class(narrow._decoded(narrow(images), None).logits)
    assert narrow.columns == (1, 3, 4)
    torch.testing.assert_close(found, expected)


def test_detections_are_the_surest_of_all_queries_in_pixels_of_the_image() -> None:
    detector, (images, _) = made("detr").eval(), batch()
    with torch.no_grad():
        maps = detector(images)
        found = detector.detections(maps, images, torch.tensor([[SIDE, 40]] * 3))[0]
        boxes, scores = RawBoxes(detector)(images)
        (whole, *_) = detector.detections(maps, images)
    assert 0 < len(found.labels) <= 12  # a query has one class
    assert found.boxes[:, 2].max() <= 40
    assert (found.scores.diff() <= 0).all()
    assert detector.sifting is not None
    raw_boxes, labels, sure = sifted(detector.sifting, boxes[0], scores[0])
    assert len(labels) == 12
    torch.testing.assert_close(sure, whole.scores[:12])
    assert raw_boxes.shape == (12, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["detr", "rt_detr", "d_fine"])
@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_files_of_detectors_with_queries_need_no_suppression(kind: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")
    detector = made(kind).eval()
    for part in detector.modules():
        if isinstance(part, nn.Conv2d):  # else the maps of an untrained network are flat, and all its queries alike
            nn.init.kaiming_normal_(part.weight)
    model = FoundBoxes(detector)
    trials = list(batch()[0].split(1))
    subject = Subject(model, SIDE, {}, outputs=model.outputs, finds=True, is_single=True, trials=trials)
    assert not model.is_ragged
    assert write(subject, tmp_path / "student.file", FORMATS[name]()).largest_difference < 1e-4


def test_a_network_that_transformers_built_is_taken_as_it_is() -> None:
    network = transformers.AutoModelForObjectDetection.from_config(
        transformers.DetrConfig.from_dict({**DETR, "num_labels": 91})
    )
    detector = us.detector(network, 91)
    assert isinstance(detector, QueryDetector)
    assert detector.state_dict().keys() == network.state_dict().keys()
    assert detector.num_classes == 91
    with pytest.raises(UserError, match="tells 91 classes apart, and 92 are wanted"):
        us.detector(network, 92)


def test_other_detectors_of_transformers_are_refused_in_words() -> None:
    kwargs = {"model_type": "yolos", "architectures": ["YolosForObjectDetection"], "num_hidden_layers": 1}
    with pytest.raises(UserError, match="a yolos cannot be distilled as a detector; of transformers'"):
        create_model("hf:mine", num_classes=CLASSES, weights="none", kwargs=kwargs)
