"""The teacher of a run: trained where that is asked for, scored, refused where it knows nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from helpers.engine import CLASSES, run_recipe, small_net, tiny_recipe
from helpers.states import differing
from understudy import Batch, Student, UserError, distill
from understudy.methods import Projector
from understudy.models import load_student
from understudy.runs.component_changes import with_teacher
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.stop import StopRequest
from understudy.runs.teacher import check_teacher, evaluate_teacher, teacher_ready
from understudy.tasks import ClassEvaluation
from understudy.trackers.base import Trackers

TRAINED = {"model": "cifar:resnet8", "kwargs": {"width": 0.5}, "weights": "none", "train_epochs": 1, "lr": 0.02}


def parts_with(**teacher: object) -> Components:
    return open_components(tiny_recipe({"teacher": teacher}), allow_code=False, say=lambda text: None)


def scored(num_right: int, num_images: int = 100) -> ClassEvaluation:
    places = torch.arange(num_images)
    predictions = torch.where(places < num_right, 0, 1)
    return ClassEvaluation.of(
        predictions, torch.zeros_like(predictions), top1=100 * num_right / num_images, top5=None, loss=0.0
    )


class TestChance:
    def test_a_teacher_at_chance_level_is_refused_with_the_way_out(self) -> None:
        components = parts_with(allow_weak=False)
        assert components.teacher_network is not None
        components = with_teacher(components, replace(components.teacher_network, starts_from="teacher.safetensors"))
        with pytest.raises(UserError) as caught:
            check_teacher(components, scored(11), say=lambda text: None)
        assert str(caught.value) == (
            "teacher cifar:resnet8 scores 11.0 % on 10 classes: no better than chance (which may reach 16.0 % on 100 "
            "images). Are these the right weights, and are its classes in the same order as the data's? Give "
            "--train-teacher N to fine-tune it first, or go on all the same with --allow-weak-teacher "
            "(allow_weak_teacher=True in Python)."
        )

    @pytest.mark.parametrize(
        ("train_epochs", "advice"),
        [
            (0, "Its weights are random: give --teacher-weights FILE"),
            (1, r"It was trained here for 1 epoch: give it more \(with --overwrite, or another --out\)"),
            (2, "It was trained here for 2 epochs: "),
        ],
    )
    def test_the_way_out_is_that_of_how_the_teacher_came_about(self, train_epochs: int, advice: str) -> None:
        components = parts_with(allow_weak=False, train_epochs=train_epochs)
        with pytest.raises(UserError, match=advice):
            check_teacher(components, scored(11), say=lambda text: None)

    @pytest.mark.parametrize(("num_right", "is_refused"), [(16, True), (17, False)])
    def test_chance_ends_two_standard_errors_above_one_in_ten(self, num_right: int, is_refused: bool) -> None:
        components = parts_with(allow_weak=False)  # 10 + 2 * sqrt(0.1 * 0.9 / 100) = 16.0 %
        if is_refused:
            with pytest.raises(UserError, match="no better than chance"):
                check_teacher(components, scored(num_right), say=lambda text: None)
        else:
            check_teacher(components, scored(num_right), say=lambda text: None)

    def test_a_weak_teacher_that_is_allowed_is_named_with_its_score(self) -> None:
        said: list[str] = []
        check_teacher(parts_with(allow_weak=True), scored(3), say=said.append)
        assert said == ["teacher  cifar:resnet8   20 k parameters   val top-1 3.0 %   random weights"]

    def test_a_run_with_a_teacher_at_chance_level_stops_before_any_student_is_trained(self, tmp_path: Path) -> None:
        recipe = tiny_recipe({"teacher": {"allow_weak": False}})
        with pytest.raises(UserError, match="no better than chance"):
            run_recipe(recipe, tmp_path / "run")
        assert not (tmp_path / "run/students").exists()
        assert not (tmp_path / "run/results.json").exists()

    def test_the_advice_to_allow_a_weak_teacher_works_in_the_same_run_folder(self, tmp_path: Path) -> None:
        small = {"seeds": [0], "epochs": 1, "rows": ["alone"]}
        with pytest.raises(UserError, match="--allow-weak-teacher"):
            run_recipe(tiny_recipe({**small, "teacher": {"allow_weak": False}}), tmp_path / "run")
        assert run_recipe(tiny_recipe({**small, "teacher": {"allow_weak": True}}), tmp_path / "run").is_finished


class TestExpected:
    @pytest.mark.parametrize("expected", [50.0, 49.51, 50.49])
    def test_a_published_score_within_half_a_point_is_no_matter(self, expected: float) -> None:
        said: list[str] = []
        check_teacher(parts_with(expected_top1=expected), scored(50), say=said.append)
        assert len(said) == 1

    def test_a_published_score_further_off_is_warned_of(self) -> None:
        said: list[str] = []
        check_teacher(parts_with(expected_top1=72.34), scored(50), say=said.append)
        assert said[1] == "warning  the teacher was expected at 72.34 %, -22.34 points off"


class TestScores:
    def test_a_teachers_scores_equal_a_count_by_hand_on_every_split(self) -> None:
        components = parts_with()
        components = replace(components, data=replace(components.data, test=components.data.train))
        found = evaluate_teacher(components)
        network = components.teacher_network.prepared.eval()
        for split, source in (("val", components.data.val), ("test", components.data.train)):
            with torch.no_grad():
                logits = network(source.images / 255)
            assert torch.equal(found[split].labels, source.labels)
            assert found[split].top1 == pytest.approx(100 * (logits.argmax(1) == source.labels).double().mean().item())
            assert found[split].loss == pytest.approx(F.cross_entropy(logits, source.labels).item(), rel=1e-5)

    def test_without_a_test_split_there_are_scores_on_val_only(self) -> None:
        assert list(evaluate_teacher(parts_with())) == ["val"]


def ready(run: Path, **teacher: object) -> Components:
    run.mkdir(exist_ok=True)
    run.mkdir(parents=True, exist_ok=True)
    trackers = Trackers(["jsonl"], run, {})
    return teacher_ready(parts_with(**teacher), RunFolder(run), Display(quiet=True), StopRequest(), trackers)


class TestTraining:
    def test_it_is_trained_once_and_kept_in_the_run_folder(self, tmp_path: Path) -> None:
        trained = ready(tmp_path / "run", **TRAINED)
        lines = (tmp_path / "run/metrics.jsonl").read_text()
        again = ready(tmp_path / "run", **TRAINED)
        assert (tmp_path / "run/metrics.jsonl").read_text() == lines
        weights = trained.teacher_network.module.state_dict()
        assert differing(weights, again.teacher_network.module.state_dict()) == []
        assert differing(weights, load_student(tmp_path / "run/teacher", prepared=False).state_dict()) == []
        assert "fc.weight" in differing(weights, parts_with(**TRAINED).teacher_network.module.state_dict())
        assert [json.loads(line)["row"] for line in lines.splitlines()] == ["teacher"] * 4
        assert not list((tmp_path / "run/checkpoints").glob("teacher-*"))

    def test_it_observes_with_the_weights_that_it_has_learnt(self, tmp_path: Path) -> None:
        components = ready(tmp_path / "run", **TRAINED)
        batch = next(iter(components.eval_loader("val")))
        expected = load_student(tmp_path / "run/teacher")(batch.images)
        torch.testing.assert_close(components.teacher.observe(batch).output, expected)
        assert components.teacher_network.starts_from == "random weights, then trained here for 1 epoch"

    def test_its_learning_rate_is_its_own_where_it_has_one(self, tmp_path: Path) -> None:
        for name, settings, expected in (("own", TRAINED, 0.02), ("recipe's", {**TRAINED, "lr": None}, 0.05)):
            ready(tmp_path / name, **settings)
            first = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
            assert first["lr"] == expected

    def test_without_epochs_it_is_left_as_it_is(self, tmp_path: Path) -> None:
        components = ready(tmp_path / "run")
        assert (
            differing(components.teacher_network.module.state_dict(), parts_with().teacher_network.module.state_dict())
            == []
        )
        assert [file.name for file in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


class TestOtherClasses:
    @pytest.fixture
    def images(self) -> TensorDataset:
        drawn = torch.Generator().manual_seed(0)
        return TensorDataset(torch.rand(20, 3, 8, 8, generator=drawn), torch.arange(20) % CLASSES)

    @pytest.mark.parametrize("num_classes", [7, 12])
    def test_a_teacher_of_other_classes_is_refused_where_its_logits_are_read(
        self, images: TensorDataset, tmp_path: Path, num_classes: int
    ) -> None:
        teacher = small_net(2, num_classes=num_classes)
        expected = f"the teacher has {num_classes} classes and the student 10"
        with pytest.raises(UserError, match=expected):
            distill(teacher, small_net(1), train=images, val=images, epochs=1, out=tmp_path / "run", quiet=True)

    @pytest.mark.parametrize("num_classes", [7, 12])
    def test_a_teacher_of_other_classes_may_teach_its_features(
        self, images: TensorDataset, tmp_path: Path, num_classes: int
    ) -> None:
        result = distill(
            small_net(2, num_classes=num_classes),
            small_net(1),
            train=images,
            val=images,
            method=Projector.Config(kl_weight=0),
            epochs=1,
            out=tmp_path / "run",
            quiet=True,
            allow_weak_teacher=True,
        )
        assert result.run.is_finished


def test_a_student_whose_network_lies_under_module_is_distilled_and_found_again(tmp_path: Path) -> None:
    drawn = torch.Generator().manual_seed(0)
    images = TensorDataset(torch.rand(20, 3, 8, 8, generator=drawn), torch.arange(20) % CLASSES)
    result = distill(
        nn.DataParallel(small_net(2)),
        nn.DataParallel(small_net(1)),
        train=images,
        val=images,
        epochs=1,
        out=tmp_path / "run",
        quiet=True,
        allow_weak_teacher=True,
    )
    again = load_student(tmp_path / "run", module=nn.DataParallel(small_net(3)))
    shown = images.tensors[0]
    with torch.no_grad():
        assert torch.equal(again(shown), result.student(shown))
        right = (again(shown).argmax(1) == images.tensors[1]).double().mean().item()
    assert result.results.rows[0].seeds[0].last.scores["top1"] == pytest.approx(100 * right)


def test_a_teacher_is_trained_in_as_many_passes_as_the_students_and_without_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    descend = Student._descend

    def noting(student: Student, batch: Batch, *arguments: Any) -> Any:
        if student.name == "teacher":
            hooks = sum(len(child._forward_hooks) for child in student.model.module.modules())
            seen.append((len(batch.images), hooks))
        return descend(student, batch, *arguments)

    monkeypatch.setattr(Student, "_descend", noting)
    over = {"rows": ["fitnet"], "epochs": 1, "seeds": [0], "accumulate": 2, "teacher": {"train_epochs": 1}}
    run_recipe(tiny_recipe(over), tmp_path / "run")
    assert seen == [(16, 0)] * 4 + [(8, 0)] * 2
