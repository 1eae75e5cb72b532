"""Recipes that take up what another one left: a teacher trained here, and a second run's first."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from understudy.recipes.schema import load_recipe
from understudy.runs.console import Display
from understudy.runs.run import execute

ON_DIGITS = (
    "data.root=digits",
    "data.format=auto",
    "data.val=auto",
    "data.train_rows='0:128'",
    "data.val_rows='128:256'",
    "student.kwargs={width: 0.125}",
    "epochs=1",
    "schedule={name: constant, milestones: []}",
    "device=cpu",
    "threads=1",
)
UNDER_A_TEACHER = ("teacher.kwargs={width: 0.125}", "teacher.expected_top1=null", "teacher.allow_weak=true")


def ran(name: str, out: Path, *settings: str) -> Path:
    """A shipped recipe, run for an epoch on two batches of the digits."""
    recipe = load_recipe(name, [*ON_DIGITS, *settings])
    execute(recipe, name=out.name, out=out, display=Display(quiet=True))
    return out


def starts_from(run: Path) -> str:
    (row,) = json.loads((run / "results.json").read_text())["rows"]
    return str(row["student"]["starts_from"])


# First run, second run, and what the second one's file says to set to the first one's folder.
CHAINS = (
    ("pad-warm-up", "pad", "student.weights"),
    ("ab-start", "ab", "student.weights"),
    ("fsp-start", "fsp", "student.weights"),
    ("ft-paraphraser", "ft", "method.init_from"),
    ("sskd-head", "sskd", "method.init_from"),
    ("hsakd-heads", "hsakd", "method.init_from"),
)
PAIR = "resnet32x4-resnet8x4"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran("cifar100/teachers/resnet32x4", tmp_path_factory.mktemp("runs") / "teacher")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "setting"), CHAINS)
def test_a_second_run_takes_up_its_first_under_a_teacher_that_was_trained_here(
    before: str, after: str, setting: str, teacher: Path, tmp_path: Path
) -> None:
    under_it = (*UNDER_A_TEACHER, f"teacher.weights={teacher}")
    first = ran(f"cifar100/{before}/{PAIR}", tmp_path / "first", *under_it)
    second = ran(f"cifar100/{after}/{PAIR}", tmp_path / "second", *under_it, f"{setting}={first}")
    assert setting in shipped_text(after)
    if setting == "student.weights":
        assert str(first) in starts_from(second)
    if after == "pad":  # as its file says: there is no projector to hand over
        assert not list(first.rglob("method.safetensors"))


def shipped_text(folder: str) -> str:
    recipes = resources.files("understudy.recipes") / "library/classification/cifar100"
    return (recipes / folder / f"{PAIR}.yaml").read_text(encoding="utf-8")
