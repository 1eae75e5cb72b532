"""A run whose task is no classification: its teacher is scored, doubted and banked by what the task says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.displays import Heard
from helpers.engine import read_metrics, run_recipe, small_net, tiny_recipe
from helpers.other_task import ByIoU
from understudy import StudentSpec, UserError, trainer
from understudy.api.distill import Result
from understudy.report import read_results
from understudy.runs.bank.layout import BankOptions
from understudy.runs.bank.make import make_banks
from understudy.runs.components import open_components
from understudy.runs.console import Display
from understudy.runs.evaluate import evaluate
from understudy.runs.teacher import check_teacher, evaluate_teacher
from understudy.tasks import TASKS

SMALL = {"seeds": [0], "epochs": 1, "rows": ["alone", "kd"]}


@pytest.fixture(autouse=True)
def by_iou(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "classification", ByIoU)


def checked(**teacher: object) -> list[str]:
    """What is said of a teacher."""
    said: list[str] = []
    components = open_components(tiny_recipe({"teacher": teacher}), allow_code=False, say=lambda text: None)
    check_teacher(components, evaluate_teacher(components).get("val"), say=said.append)
    return said


def test_a_teacher_is_scored_by_the_tasks_headline_metric() -> None:
    (said,) = checked()
    assert said.startswith("teacher  cifar:resnet8   20 k parameters   val mIoU ")
    assert said.endswith(" %   random weights")


def test_a_teacher_with_nothing_to_teach_is_refused_in_the_tasks_words() -> None:
    with pytest.raises(
        UserError, match=r"^teacher cifar:resnet8 reaches mIoU \d\.\d %, which is to be above 20 %\. Its"
    ):
        checked(allow_weak=False)


def test_an_expected_top1_that_the_task_does_not_have_is_said_to_be_compared_with_nothing() -> None:
    assert checked(expected_top1=70.0)[1] == (
        "warning  teacher.expected_top1 is compared with nothing: this task has miou, surprise"
    )


def test_a_teacher_is_held_to_what_was_published_in_the_tasks_headline() -> None:
    assert any("the teacher was expected at 99.00 %, -" in line for line in checked(expected=99.0))
    with pytest.raises(UserError, match="expected and expected_top1 both say what the teacher reaches"):
        checked(expected=70.0, expected_top1=70.0)


def test_a_whole_run_is_scored_in_the_tasks_metrics_alone(tmp_path: Path) -> None:
    told = Heard()
    run = run_recipe(tiny_recipe(SMALL), tmp_path / "run", display=told)

    results = read_results(run.path)
    assert results.metric.title == "mIoU"
    assert [set(row.summary.scores) for row in results.rows] == [{"miou", "surprise"}] * 2
    lines = read_metrics(run)
    assert {line["kind"]: set(line) & {"hits", "top1"} for line in lines} == {"train": {"hits"}, "epoch": set()}
    assert [set(line["train"]) - {"kl_to_teacher", "distill"} for line in lines if line["kind"] == "epoch"] == [
        {"task_loss", "hits"}
    ] * 2
    said = evaluate(run, split="val", data=None, allow_code=False).text
    assert results.deployed is not None
    score = results.row(results.deployed.row).seeds[0].selected.scores
    assert said.endswith(f"(100 images)   mIoU {score['miou']:.2f} %   surprise {score['surprise']:.4f} nats")
    result = Result(nn.Identity(), results, run)
    assert repr(result).startswith(f"Result(miou={score['miou']:.2f}, run=")
    with pytest.raises(AttributeError, match=r"scored by mIoU; read result\.score"):
        _ = result.top1
    assert "top-1" not in (run.path / "report.html").read_text() + said + "\n".join(told.said)


def test_targets_of_a_loader_of_ones_own_are_checked_by_the_task() -> None:
    own = (torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 12]))
    trained = trainer(task=ByIoU(10), students=[StudentSpec(small_net(0))], sample=own)
    with pytest.raises(UserError, match="there is no area of class 12"):
        trained.fit([own], epochs=1)


def test_a_bank_keeps_what_the_task_evaluates_and_gives_it_back(tmp_path: Path) -> None:
    make_banks(tiny_recipe(SMALL), out=tmp_path / "bank", options=BankOptions(views=1), display=Display(quiet=True))
    found = [
        evaluate_teacher(open_components(tiny_recipe({**SMALL, **over}), allow_code=False, say=lambda text: None))
        for over in ({}, {"bank": {"path": str(tmp_path / "bank")}})
    ]
    live, banked = (by_split["val"] for by_split in found)
    assert banked.scores == live.scores
    assert torch.equal(banked.per_item, live.per_item)


def test_a_bank_of_another_task_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe({**SMALL, "bank": {"path": str(tmp_path / "bank")}})
    make_banks(tiny_recipe(SMALL), out=tmp_path / "bank", options=BankOptions(views=1), display=Display(quiet=True))
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"seed0 does not hold 'predictions' of its teacher's scores, .* make the bank"):
        run_recipe(recipe, tmp_path / "run")
