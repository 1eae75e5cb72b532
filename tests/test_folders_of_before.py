"""A run folder and a bank that were written before the modules moved are still what they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from understudy import load_student
from understudy.recipes.schema import Recipe, load_recipe
from understudy.report import read_results, write_report
from understudy.runs.console import Display
from understudy.runs.evaluate import evaluate
from understudy.runs.folder import open_run_folder
from understudy.runs.run import execute

FIXTURES = Path(__file__).parent / "fixtures" / "before_the_move"
QUIET = Display(quiet=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURES / "run", tmp_path / "run")


def epochs_of(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


def test_its_results_are_read_and_its_page_is_written(run: Path) -> None:
    (row,) = read_results(run).rows
    assert row.name == "kd+dot"
    assert "kd+dot" in write_report(run).read_text()


def test_its_student_scores_what_it_scored(run: Path) -> None:
    (row,) = json.loads((run / "results.json").read_text())["rows"]
    said = evaluate(open_run_folder(run), split="val", data=None, allow_code=False).text
    assert f"top-1 {row['seeds'][0]['last']['top1']:.2f} %" in said
    assert load_student(run / "student")(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_it_goes_on_from_its_checkpoint(run: Path) -> None:
    before = epochs_of(run)
    longer = Recipe.read({**load_recipe(run / "recipe.yaml").as_dict(), "epochs": 3}, what="a longer run")
    execute(longer, name="run", out=run, display=QUIET)
    after = epochs_of(run)
    assert after[: len(before)] == before
    assert [line["epoch"] for line in after[len(before) :]] == [3]


def test_its_bank_teaches(tmp_path: Path) -> None:
    bank = shutil.copytree(FIXTURES / "bank", tmp_path / "bank")
    settings = {**load_recipe(FIXTURES / "run/recipe.yaml").as_dict(), "bank": {"path": str(bank)}}
    done = execute(Recipe.read(settings, what="it"), name="run", out=tmp_path / "run", display=QUIET)
    taught, live = (read_results(path).rows[0].seeds[0].train for path in (done.path, FIXTURES / "run"))
    # The same teacher, looked up in float16 instead of looked at: the yardsticks agree to its rounding.
    assert taught is not None
    assert live is not None
    assert taught.kl_to_teacher == pytest.approx(live.kl_to_teacher, rel=0.05)
