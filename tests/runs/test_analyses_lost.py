"""`understudy analyze` where something of a run or of its analyses is gone, or is asked for wrongly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.command_line import refused
from helpers.engine import tiny_recipe
from understudy.runs.analyses.base import Found
from understudy.runs.analyses.kept import Kept
from understudy.runs.analyses.run import AnalyzeOptions, analyze
from understudy.runs.classifiers import teachers_by_name
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.utils.errors import UserError


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_a_piece_whose_tensors_are_lost_counts_as_not_done(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    kept = Kept(tmp_path, "similarity", {"a": 1})
    kept.add("kd/map", Found({"layers": 2}, {"cka": torch.ones(2)}), seconds=1.0, num_pieces=2)
    kept.add("alone", Found({"layers": 2}), seconds=1.0, num_pieces=2)
    assert "kd/map" in Kept(tmp_path, "similarity", {"a": 1})
    damage(tmp_path / "similarity.safetensors")
    again = Kept(tmp_path, "similarity", {"a": 1})
    assert "kd/map" not in again
    assert "alone" in again


def test_what_was_found_is_not_overwritten_by_why_it_cannot_be_made_now(tmp_path: Path) -> None:
    Kept(tmp_path, "embeddings", {"num_images": 500}).add("kd/pca", Found({"a": 1}), seconds=1.0, num_pieces=1)
    Kept(tmp_path, "embeddings", {"num_images": 2}).leave_out("a layout needs 3 images or more")
    assert "kd/pca" in Kept(tmp_path, "embeddings", {"num_images": 500})
    Kept(tmp_path, "fidelity", {"num_images": 2}).leave_out("there is no teacher")
    assert json.loads((tmp_path / "fidelity.json").read_text())["problem"] == "there is no teacher"


def test_a_teacher_that_the_run_trained_is_never_replaced_by_random_weights() -> None:
    recipe = tiny_recipe({"rows": ["kd"], "teacher": {"train_epochs": 1}})
    with pytest.raises(UserError, match="teacher/ is not there any more"):
        teachers_by_name(recipe, allow_code=False)
    assert teachers_by_name(tiny_recipe({"rows": ["kd"], "teacher": {"train_epochs": 0}}), allow_code=False)[
        None
    ].num_classes


def test_a_list_of_no_names_is_refused(tmp_path: Path) -> None:
    assert "--what names no analysis" in refused("analyze", tmp_path, "--what", " , ")


def test_a_run_given_twice_is_refused_as_that(tmp_path: Path) -> None:
    runs = [RunFolder(tmp_path), RunFolder(tmp_path / ".." / tmp_path.name)]
    with pytest.raises(UserError, match="is given twice"):
        analyze(runs, AnalyzeOptions(), allow_code=False, display=Display(quiet=True))
