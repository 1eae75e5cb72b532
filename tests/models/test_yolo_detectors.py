"""YOLOs of the package ultralytics: on a stand-in with its interface, and on itself where it is installed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import understudy as us
from helpers import yolo_package
from helpers.drawn_shapes import CLASSES, SIDE, drawn_batches, small_one_stage
from understudy.core.boxes import Boxes
from understudy.methods import METHODS
from understudy.models import create_model, save_student
from understudy.models.detectors import yolo_package as door
from understudy.models.detectors.deployed import FoundBoxes, RawBoxes
from understudy.models.detectors.yolo import YoloDetector
from understudy.models.student_folder import load_student_network
from understudy.tasks import DetectionConfig
from understudy.utils.errors import UserError

torch.set_num_threads(1)
IS_INSTALLED = importlib.util.find_spec("ultralytics") is not None
real = pytest.param(
    "installed",
    marks=pytest.mark.skipif(not IS_INSTALLED, reason="needs ultralytics, AGPL-3.0: a user's own decision"),
)


@pytest.fixture(params=["named", "maps", real])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stand-in, with either form of predictions, or what is installed."""
    if request.param != "installed":
        yolo_package.installed(monkeypatch, as_maps=request.param == "maps")
    return str(request.param)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    yolo_package.installed(monkeypatch)


def made(name: str = "yolov5s", seed: int = 0, num_classes: int = CLASSES, **kwargs: Any) -> YoloDetector:
    torch.manual_seed(seed)
    network = create_model(f"ultralytics:{name}", num_classes=num_classes, weights="none", kwargs=kwargs)
    assert isinstance(network.module, YoloDetector)
    return network.module


def batch() -> tuple[Tensor, Boxes]:
    (drawn,) = drawn_batches(1, 3)
    return drawn.images, drawn.targets


def targets_of(images: Tensor, boxes: Boxes, columns: tuple[int, ...]) -> dict[str, Tensor]:
    """As the package's own loader would have them."""
    x1, y1, x2, y2 = (boxes.boxes / SIDE).unbind(1)
    shares = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1)
    classes = torch.tensor(columns)[boxes.labels].float()[:, None]
    return {"img": images, "batch_idx": boxes.image.float(), "cls": classes, "bboxes": shares}


# --- The package is not there -----------------------------------------------------------------------------------------


def test_without_the_package_it_is_said_what_it_is_and_what_stands_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yolo_package.absent(monkeypatch)
    with pytest.raises(UserError) as caught:
        made("yolov5m")
    said = str(caught.value)
    for part in ("not installed", "AGPL-3.0", "pip install ultralytics", "yours to decide", "RT-DETR or D-FINE"):
        assert part in said


def test_a_package_without_a_part_that_is_called_is_named(monkeypatch: pytest.MonkeyPatch, stand_in: None) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ultralytics.nn.tasks", None)
    with pytest.raises(UserError, match=r"is there, but ultralytics\.nn\.tasks cannot be imported"):
        made()


# --- Names ------------------------------------------------------------------------------------------------------------


def test_names_are_the_packages_with_and_without_their_ending(stand_in: None) -> None:
    bare, ended, other = made("yolov5s"), made("yolov5s.yaml"), made("yolov5m")
    assert all(torch.equal(one, ended.state_dict()[key]) for key, one in bare.state_dict().items())
    assert sum(part.numel() for part in other.parameters()) > sum(part.numel() for part in bare.parameters())


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("yolov5q", {}, "ultralytics has no model 'yolov5q'"),
        ("lost/best.pt", {}, "there is no such file"),
        ("https://x.org/yolov5s.yaml", {}, "there is no such file"),
        ("yolov5s", {"bix": 1}, "argument 'bix' is unknown; did you mean box"),
        ("yolov5n-seg", {}, "ends in Segment is not adapted"),
        ("mine", {"cfg": {"width": 8}}, "cfg must be a configuration"),
        ("mine", {"cfg": {**yolo_package.CONFIG, "width": None}}, "ultralytics:mine cannot be built: "),
        ("mine", {"cfg": {**yolo_package.CONFIG, "activation": "__import__('os').abort()"}}, "might run code"),
        ("mine", {"cfg": {**yolo_package.CONFIG, "head": [[-1, 1, "exit()", []]]}}, "might run code"),
    ],
)
def test_what_is_no_detector_of_the_package_is_refused_in_words(
    stand_in: None, name: str, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        made(name, **kwargs)


def test_of_two_heads_the_one_that_suppression_goes_with_is_taken(stand_in: None) -> None:
    assert not [key for key in made("yolo26n").state_dict() if "one2one" in key]
    both = yolo_package.DetectionModel(yolo_package.KNOWN["yolo26n.yaml"], nc=CLASSES)
    with pytest.raises(UserError, match=r"a network that ends in Detect is not adapted: .* yolo26 with end2end: false"):
        us.detector(both, CLASSES)


def test_weights_that_are_not_among_those_of_a_file_are_not_left_random(stand_in: None, tmp_path: Path) -> None:
    network = made("yolov5m").network
    del network.model[-1].cv2[0]  # type: ignore[index]
    torch.save({"model": network}, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"pretrained weights cannot be had: model\.5\.cv2\.2\.bias, .* not among them"):
        create_model(f"ultralytics:{tmp_path / 'best.pt'}", num_classes=CLASSES, weights="pretrained")


def test_activations_by_name_are_no_code() -> None:
    door.refuse_code_in({"activation": "torch.nn.LeakyReLU(0.1)", "backbone": [[-1, 1, "nn.Upsample", [None, 2]]]}, "x")


def test_the_package_installs_nothing_and_what_it_changes_of_others_is_put_back() -> None:
    before = (torch.save, torch.load, Image.open, np.get_printoptions(), dict(os.environ))
    with door._kept_to_itself():
        assert os.environ["YOLO_AUTOINSTALL"] == "false"
        torch.save = torch.load = Image.open = print  # type: ignore[assignment]
        np.set_printoptions(precision=1)
        os.environ["OMP_NUM_THREADS"] = "77"
    assert before == (torch.save, torch.load, Image.open, np.get_printoptions(), dict(os.environ))


# --- One look, many questions -----------------------------------------------------------------------------------------


def test_what_is_said_of_maps_is_what_the_network_says_of_images(package: str) -> None:
    detector, (images, _) = made().eval(), batch()
    with torch.no_grad():
        maps = detector(images)
        expected = detector.network(images)[0]
        found = detector._said(maps, decodes=True)
    assert {name: one.shape[2] for name, one in maps.items()} == {"p3": 8, "p4": 4, "p5": 2}
    assert torch.equal(found, expected)
    assert detector.state_dict().keys() == detector.network.state_dict().keys()


def test_the_loss_is_the_packages_by_image_and_its_gains_are_settings(package: str) -> None:
    images, boxes = batch()
    losses = []
    for kwargs in ({}, {"box": 0.0, "dfl": 0.0}):
        detector = made(**kwargs).train()
        maps = detector(images)
        proposals = detector.propose(maps, images, boxes)
        (loss,) = detector.losses(proposals, detector.score(maps, proposals)).values()
        expected, _ = detector.network.loss(targets_of(images, boxes, detector.columns))  # type: ignore[operator]
        torch.testing.assert_close(loss, expected.sum() / 3)
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_rows_are_the_places_that_the_assignment_gives_to_objects_and_as_many_others(package: str) -> None:
    student, teacher, (images, boxes) = made().train(), made("yolov5m", 1).eval(), batch()
    maps = student(images)
    proposals = student.propose(maps, images, boxes)
    scored = student.score(maps, proposals)
    with torch.no_grad():
        taught = teacher.answer(teacher(images), proposals)
    assert scored.logits.shape == taught.logits.shape == (len(proposals.labels), CLASSES)
    assert scored.activation == taught.activation == "sigmoid"
    assert set(proposals.labels[proposals.is_object].tolist()) <= set(boxes.labels.tolist())
    assert (proposals.labels[~proposals.is_object] == -1).all()
    assert 0 < proposals.is_object.sum() == (~proposals.is_object).sum()
    assert {name: tuple(one.shape) for name, one in scored.levels.items()} == {
        name: (3, CLASSES, side, side) for name, side in {"p3": 8, "p4": 4, "p5": 2}.items()
    }
    by_place = torch.cat([one.flatten(2) for one in scored.levels.values()], 2).mT.flatten(0, 1)
    assert torch.equal(by_place[proposals.question.places], scored.logits)
    sum(student.losses(proposals, scored).values()).backward()
    assert all(part.grad is not None for part in student.parameters() if part.requires_grad)


def test_images_without_boxes_have_one_row_that_is_no_object(package: str) -> None:
    detector, (images, _) = made().train(), batch()
    maps = detector(images)
    proposals = detector.propose(maps, images, Boxes.packed([Boxes.none((SIDE, SIDE))] * 3))
    assert len(detector.score(maps, proposals).logits) == 1
    assert not proposals.is_object.any()
    assert torch.isfinite(proposals.own.loss)


def test_columns_of_a_wider_network_are_those_of_the_classes(package: str) -> None:
    network, (images, boxes) = made(num_classes=5).network, batch()
    detector = us.detector(network, CLASSES, columns=[4, 0, 2])
    assert isinstance(detector, YoloDetector)
    maps = detector.train()(images)
    proposals = detector.propose(maps, images, boxes)
    scored = detector.score(maps, proposals)
    expected, _ = network.loss(targets_of(images, boxes, (4, 0, 2)))  # type: ignore[operator]
    torch.testing.assert_close(proposals.own.loss, expected.sum() / 3)
    assert scored.logits.shape[1] == CLASSES
    assert set(proposals.labels[proposals.is_object].tolist()) <= set(boxes.labels.tolist())
    detector.eval()
    with torch.no_grad():
        found = detector.detections(detector(images), images, boxes.sizes)
    assert all(len(one.labels) and one.labels.min() >= 0 and one.labels.max() < CLASSES for one in found)
    with pytest.raises(UserError, match="tells 5 classes apart, and 6 are wanted"):
        us.detector(network, 6)


@pytest.mark.parametrize("settings", [None, {"box": 5.0, "mode": "train"}])
def test_a_network_that_the_package_built_is_taken_with_its_settings_as_they_are(
    package: str, settings: dict[str, Any] | None
) -> None:
    network, (images, boxes) = made().network, batch()
    expected = made(**({"box": 5.0} if settings else {})).train()
    network.args = settings  # type: ignore[assignment]
    detector = us.detector(network, CLASSES)
    assert isinstance(detector, YoloDetector)
    losses = [one.propose(one(images), images, boxes).own.loss for one in (detector.train(), expected)]
    torch.testing.assert_close(*losses)
    assert network.args is settings


def test_boxes_lie_in_the_image_without_its_padding_and_the_surest_come_first(package: str) -> None:
    detector, (images, _) = made().eval(), batch()
    with torch.no_grad():
        maps = detector(images)
        found = detector.detections(maps, images, torch.tensor([[SIDE, 40]] * 3))
    for one in found:
        assert 0 < len(one.boxes) <= 300
        assert one.boxes.min() >= 0
        assert one.boxes[:, 2].max() <= 40
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
        assert (one.scores.diff() <= 0).all()
        assert one.labels.dtype == torch.int64


def test_sides_that_no_stride_divides_are_filled_up_and_boxes_stay_where_they_are(package: str) -> None:
    detector, (images, boxes) = made().eval(), batch()
    narrow = images[:, :, :50, :40]
    with torch.no_grad():
        maps = detector(narrow)
        whole = detector(torch.nn.functional.pad(narrow, (0, 24, 0, 14)))
    assert all(torch.equal(one, whole[name]) for name, one in maps.items())
    loss = detector.propose(maps, narrow, boxes).own.loss
    torch.testing.assert_close(loss, detector.propose(whole, images, boxes).own.loss)


def test_teachers_of_other_families_are_refused_on_rows_and_there_are_no_anchors(package: str) -> None:
    images, boxes = batch()
    student, other = made().train(), small_one_stage(family="fcos")
    proposals = student.propose(student(images), images, boxes)
    with pytest.raises(UserError, match="family"):
        other.answer(other(images), proposals)
    with pytest.raises(UserError, match="answers about the places of another one with the same strides"):
        student.answer(student(images), other.propose(other(images), images, boxes))
    with pytest.raises(UserError, match=r"set detection\.masks: boxes"):
        student.anchors({}, images)
    with pytest.raises(UserError, match="exported by that package, under its licence"):
        FoundBoxes(student)
    with pytest.raises(UserError, match="exported by that package, under its licence"):
        RawBoxes(student)


# --- Training, and what is kept ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_learns_to_find_by_the_packages_loss(stand_in: None) -> None:
    batches = drawn_batches(2, 8)
    spec = us.StudentSpec(made(), update=us.Joint.Config(optimizer="adamw", lr=0.01), name="alone")
    trainer = us.trainer(task=us.Detection(CLASSES), teacher=None, students=[spec], sample=batches[0])
    history = trainer.fit(batches, epochs=8, val=batches)["alone"]
    assert history[-1]["train"]["task_loss"] < 0.9 * history[0]["train"]["task_loss"]
    assert history[-1]["val"]["ap50"] > history[0]["val"]["ap50"] + 5


def test_methods_on_rows_on_levels_and_on_maps_go_into_one_training(package: str) -> None:
    (drawn,) = drawn_batches(1, 3)
    methods = {
        "rows": METHODS["dist"].Config(),
        "levels": METHODS["dist"].Config(on={"p3": 1, "p4": 1, "p5": 1}),
        "fitnet": METHODS["fitnet"].Config(student_stages=[0, 1, 2], teacher_stages=[0, 1, 2]),
        "fgfi": METHODS["fgfi"].Config(),
    }
    trainer = us.trainer(
        task=us.Detection(CLASSES, settings=DetectionConfig(masks="boxes")),
        teacher=us.LiveTeacher(made("yolov5m", 1)),
        students=[us.StudentSpec(made(), method=[method], name=name) for name, method in methods.items()],
        sample=drawn,
    )
    history = trainer.fit([drawn], epochs=1, val=[drawn])
    assert all(history[name][-1]["train"]["distill"] > 0 for name in methods)
    assert all("ap" in history[name][-1]["val"] for name in methods)


def test_a_teacher_of_another_family_teaches_by_maps(stand_in: None) -> None:
    (drawn,) = drawn_batches(1, 3)
    spec = us.StudentSpec(
        made(), method=METHODS["fitnet"].Config(student_stages=[0, 1, 2], teacher_stages=[0, 1, 2]), name="fitnet"
    )
    teacher = us.LiveTeacher(small_one_stage())
    trainer = us.trainer(task=us.Detection(CLASSES), teacher=teacher, students=[spec], sample=drawn)
    assert trainer.fit([drawn], epochs=1)["fitnet"][-1]["train"]["distill"] > 0


def test_a_students_folder_is_read_again(package: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model("ultralytics:yolov5s", num_classes=CLASSES, weights="none", kwargs={"box": 5.0})
    save_student(tmp_path, network, ["a", "b", "c"])
    again, (images, boxes) = load_student_network(tmp_path), batch()
    assert (again.mean, again.std, again.kwargs) == ([0.0] * 3, [1.0] * 3, {"box": 5.0})
    with torch.no_grad():
        expected = network.module.eval().detections(network.module(images), images, boxes.sizes)
        maps = us.load_student(tmp_path)(images)
        found = maps.detector.detections(maps, images, boxes.sizes)
    assert all(torch.equal(one.boxes, other.boxes) for one, other in zip(expected, found, strict=True))


def test_a_checkpoint_of_the_package_is_a_pickle_and_is_read_where_code_is_allowed(
    package: str, tmp_path: Path
) -> None:
    file = tmp_path / "best.pt"
    published = made("yolov5m").network
    torch.save({"model": published.half(), "epoch": -1}, file)
    with pytest.raises(UserError, match=r"refused, since it holds more .*; as a model it is ultralytics:.*best\.pt"):
        create_model("ultralytics:yolov5m", num_classes=CLASSES, weights=file)
    with pytest.raises(UserError, match=r"would run code from .*best\.pt; allow that"):
        create_model(f"ultralytics:{file}", num_classes=CLASSES, allow_code=False)
    network = create_model(f"ultralytics:{file}", num_classes=CLASSES)
    assert network.starts_from == "pretrained weights"
    own, theirs = network.module.state_dict(), published.float().state_dict()
    assert all(torch.equal(one, theirs[key]) for key, one in own.items())
    wider = create_model(f"ultralytics:{file}", num_classes=5).module  # with a head of its own
    assert torch.equal(wider.state_dict()["model.0.conv.weight"], own["model.0.conv.weight"])
    folder = tmp_path / "student"
    save_student(folder, network)
    file.unlink()
    again = load_student_network(folder)  # which holds the configuration: nothing is looked for, no code is run
    assert all(torch.equal(one, own[key]) for key, one in again.module.state_dict().items())


def test_published_weights_are_those_without_anchors_and_lie_where_torch_keeps_them(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    published = made("yolov5s", 5).network
    torch.save({"model": published}, folder / "yolov5su.pt")
    network = create_model("ultralytics:yolov5s", num_classes=CLASSES)
    assert network.starts_from == "pretrained weights"
    assert all(torch.equal(one, published.state_dict()[key]) for key, one in network.module.state_dict().items())


def test_a_folder_that_names_a_pickle_is_refused_unless_code_is_allowed(stand_in: None, tmp_path: Path) -> None:
    save_student(tmp_path, create_model("ultralytics:yolov5s", num_classes=CLASSES, weights="none"))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("ultralytics:yolov5s", "ultralytics:evil.pt"))
    with pytest.raises(UserError, match="would run code from"):
        us.load_student(tmp_path)


def test_a_network_that_moves_takes_the_packages_own_tensors_with_it(package: str) -> None:
    detector, (images, boxes) = made().train(), batch()
    before = detector.propose(detector(images), images, boxes).own.loss
    detector.to("meta")
    assert next(detector.parameters()).device.type == "meta"
    assert next(detector.network.parameters()).device.type == "meta"
    assert not detector._criteria
    assert torch.isfinite(before)
