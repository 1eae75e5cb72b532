"""Banks of recipes whose length is said in steps: a view is a pass over the images, wherever the run's parts end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.banked import files_of, losses_of, make, opened, small_recipe, with_bank
from helpers.displays import Eventful, Heard, press_ctrl_c
from helpers.engine import read_metrics, run_recipe
from understudy.recipes.schema import Recipe
from understudy.runs.bank.views import num_passes, steps_note
from understudy.runs.components import open_components
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted


def recipe_in_steps(**over: Any) -> Recipe:
    """Eight steps in two parts: three batches of 80 digits are a pass, so the first part ends within the second."""
    return small_recipe({"steps": 8, "epochs": 2, **over})


@pytest.mark.parametrize("data", [{}, {"mix": {"mixup": 0.8}}, {"drop_last": True}], ids=str)
def test_a_run_of_steps_from_a_bank_is_the_live_one(data: dict[str, Any], tmp_path: Path) -> None:
    recipe = recipe_in_steps(data=data)
    make(recipe, tmp_path, views=4)
    assert losses_of(with_bank(recipe, tmp_path), 8)[1] == losses_of(recipe, 8)[1]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_live_metrics(tmp_path: Path) -> None:
    recipe = recipe_in_steps()
    make(recipe, tmp_path / "bank", views=3)
    live = run_recipe(recipe, tmp_path / "live")
    with pytest.raises(Interrupted):
        run_recipe(with_bank(recipe, tmp_path / "bank"), tmp_path / "run", display=Eventful(1, 5, press_ctrl_c))
    again = run_recipe(with_bank(recipe, tmp_path / "bank"), tmp_path / "run")
    assert read_metrics(again) == read_metrics(live)


def test_the_bank_is_that_of_a_recipe_of_epochs(tmp_path: Path) -> None:
    make(recipe_in_steps(), tmp_path / "steps")
    make(small_recipe(), tmp_path / "epochs")
    assert files_of(tmp_path / "steps") == files_of(tmp_path / "epochs")
    opened(with_bank(recipe_in_steps(), tmp_path / "epochs"))


def test_the_views_that_such_a_run_takes_are_said_beforehand_with_their_size(tmp_path: Path) -> None:
    heard = Heard()
    make(recipe_in_steps(), tmp_path, views=2, display=heard)
    said = "this recipe's run is 3 passes over the images (8 steps): --views 3 (10.8 kB) would show none twice"
    assert any(said in text for text in heard.said)
    make(recipe_in_steps(), tmp_path, views=3, display=heard)
    assert any("(8 steps), and shows none of these views twice" in text for text in heard.said)


def test_fewer_views_than_passes_come_again_and_that_is_said_or_refused(tmp_path: Path) -> None:
    make(recipe_in_steps(), tmp_path, views=2)
    said: list[str] = []
    components = open_components(with_bank(recipe_in_steps(), tmp_path), allow_code=False, say=said.append)
    assert any("2 views for 3 passes over the images (8 steps): every 2 passes the same augm" in text for text in said)
    assert [batch.view for part in (1, 2) for batch in components.train_loader(0).epoch(part)] == [
        0,
        0,
        0,
        1,
        1,
        1,
        0,
        0,
    ]
    unique = {"path": str(tmp_path), "views": "unique"}
    with pytest.raises(UserError, match=r"2 views for 3 passes .*--views 3\), take fewer steps, or bank.views=repeat"):
        opened(with_bank(recipe_in_steps(), tmp_path, bank=unique))
    opened(with_bank(recipe_in_steps(steps=6), tmp_path, bank=unique))


@pytest.mark.parametrize(
    ("over", "world_size", "passes"),
    [
        ({}, 1, 3),
        ({"data": {"drop_last": True}}, 1, 4),
        ({"data": {"batch_size": 79}}, 1, 4),
        ({"data": {"batch_size": 79}}, 2, 8),  # the one image that is left has no process for its second half
        ({"steps": None}, 1, 2),
    ],
)
def test_passes_are_those_that_a_run_begins(over: dict[str, Any], world_size: int, passes: int) -> None:
    assert num_passes(recipe_in_steps(**over), 80, world_size=world_size) == passes


def test_the_papers_recipe_of_40_000_steps_takes_216_views() -> None:
    recipe = small_recipe({"steps": 40_000, "epochs": 50, "data": {"batch_size": 16}})
    note = steps_note(recipe, 2975, 8, view_bytes=10**9)
    assert note is not None
    assert "216 passes over the images (40,000 steps): --views 216 (216 GB)" in note
    assert steps_note(small_recipe(), 2975, 8, view_bytes=1) is None
