"""Recipes that take up what another one left: a teacher trained here, and a second run's first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from understudy.logs import Display
from understudy.recipe import load_recipe
from understudy.runs import execute

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


@pytest.mark.slow
def test_pads_second_run_follows_its_first_under_a_teacher_that_was_trained_here(tmp_path: Path) -> None:
    teacher = ran("cifar100/teachers/resnet32x4", tmp_path / "teacher")
    under_it = (*UNDER_A_TEACHER, f"teacher.weights={teacher}")
    first = ran("cifar100/pad-warm-up/resnet32x4-resnet8x4", tmp_path / "first", *under_it)
    second = ran("cifar100/pad/resnet32x4-resnet8x4", tmp_path / "second", *under_it, f"student.weights={first}")
    assert str(first) in starts_from(second)
    assert not list(first.rglob("method.safetensors"))  # as the second recipe says: there is no projector to hand over
