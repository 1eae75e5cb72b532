"""A run whose bank grows while it is stopped goes on with the views that it began with."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from helpers.banked import make, small_recipe, with_bank
from helpers.displays import Eventful
from helpers.engine import read_metrics, run_recipe
from understudy.recipes.schema import Recipe
from understudy.runs.folder import RunFolder
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted


def banked(folder: Path, *, views: int) -> Recipe:
    make(small_recipe(), folder, views=views)
    return with_bank(small_recipe({"epochs": 5}), folder)


def stopped_after_two_epochs(recipe: Recipe, out: Path) -> None:
    stop = Eventful(1, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        run_recipe(recipe, out, display=stop)


def test_a_run_that_was_stopped_goes_on_with_its_views(tmp_path: Path) -> None:
    recipe = banked(tmp_path / "bank", views=2)
    whole = run_recipe(recipe, tmp_path / "whole")
    stopped_after_two_epochs(recipe, tmp_path / "run")
    make(small_recipe(), tmp_path / "bank", views=5)
    run = run_recipe(recipe, tmp_path / "run")  # the same command
    assert run.recipe()["bank"]["num_views"] == 2
    assert read_metrics(run) == read_metrics(whole)
    afresh = run_recipe(recipe, tmp_path / "afresh")
    assert afresh.recipe()["bank"]["num_views"] == 5
    assert read_metrics(afresh) != read_metrics(whole)


def test_a_run_without_a_name_is_found_again_after_its_bank_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = banked(tmp_path / "bank", views=2)
    stop = Eventful(1, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        run_recipe(recipe, None, display=stop)
    make(small_recipe(), tmp_path / "bank", views=5)
    run = run_recipe(recipe, None)
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == [run.path.name]
    assert run.recipe()["bank"]["num_views"] == 2


def test_its_recipe_repeats_it(tmp_path: Path) -> None:
    whole = run_recipe(banked(tmp_path / "bank", views=2), tmp_path / "whole")
    make(small_recipe(), tmp_path / "bank", views=5)
    again = run_recipe(Recipe.read(whole.recipe(), what="its recipe"), tmp_path / "again")
    assert read_metrics(again) == read_metrics(whole)


def test_a_run_that_was_begun_without_a_number_takes_that_of_now(tmp_path: Path) -> None:
    recipe = banked(tmp_path / "bank", views=2)
    stopped_after_two_epochs(recipe, tmp_path / "run")
    file = RunFolder(tmp_path / "run").recipe_file
    file.write_text(file.read_text().replace("  num_views: 2\n", ""))
    make(small_recipe(), tmp_path / "bank", views=3)
    assert run_recipe(recipe, tmp_path / "run").recipe()["bank"]["num_views"] == 3


def test_a_bank_that_has_fewer_views_than_the_run_began_with_is_refused(tmp_path: Path) -> None:
    stopped_after_two_epochs(banked(tmp_path / "bank", views=3), tmp_path / "run")
    recipe = banked(tmp_path / "other", views=2)
    (tmp_path / "bank").rename(tmp_path / "moved")
    (tmp_path / "other").rename(tmp_path / "bank")
    with pytest.raises(UserError, match="has 2 views, and this run began with 3"):
        run_recipe(with_bank(recipe, tmp_path / "bank"), tmp_path / "run")
