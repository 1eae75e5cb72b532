"""How many views a run shows: those that it began with, whatever has been added to the bank since."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.banked import make, opened, small_recipe, with_bank
from understudy import Batch
from understudy.recipes.schema import Recipe
from understudy.runs.bank.open import open_banks
from understudy.runs.bank.views import limit_views
from understudy.runs.components import Components
from understudy.teachers import RunTeacher
from understudy.teachers.bank.seeds import SeededBanks
from understudy.teachers.bank.teacher import BankTeacher
from understudy.utils.errors import UserError


def banks_of(recipe: Recipe, out: Path, num_views: int | None) -> SeededBanks:
    components, _ = opened(recipe)
    banked = with_bank(recipe, out)
    return open_banks(
        banked,
        components.data,
        image_size=components.image_size,
        student=components.student_network,
        num_views=num_views,
    )


def teacher_in(components: Components) -> RunTeacher:
    assert components.teacher is not None
    return components.teacher


def asked(bank: BankTeacher, view: int) -> torch.Tensor:
    batch = Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1), indices=torch.tensor([3]), view=view)
    return bank.observe(batch).output


def test_a_run_goes_on_with_the_views_that_it_began_with(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path, views=3)
    bank = banks_of(small_recipe(), tmp_path, 2).for_seed(0)
    assert bank.num_views == 2
    assert asked(bank, 1).shape == (1, 10)
    with pytest.raises(UserError, match="holds views 0 to 1, and view 2 was asked for"):
        asked(bank, 2)
    assert banks_of(small_recipe(), tmp_path, None).num_views == 3


def test_a_bank_with_fewer_views_than_the_run_began_with_is_refused(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path, views=1)
    said = r"has 1 view, and this run began with 2; add the others .*--views 2 --out"
    with pytest.raises(UserError, match=said):
        banks_of(small_recipe(), tmp_path, 2)


def test_seeds_of_unequal_banks_show_equally_many_views(tmp_path: Path) -> None:
    recipe = small_recipe({"seeds": [0, 1]})
    make(recipe, tmp_path, views=1)
    make(Recipe.read({**recipe.as_dict(), "seeds": [0]}, what="one of them"), tmp_path, views=3)
    banks = banks_of(recipe, tmp_path, None)
    assert [banks.for_seed(seed).num_views for seed in (0, 1)] == [1, 1]


def test_unique_views_are_counted_among_those_that_are_shown(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path, views=3)
    recipe = with_bank(small_recipe({"epochs": 3}), tmp_path, bank={"path": str(tmp_path), "views": "unique"})
    components, _ = opened(recipe)
    with pytest.raises(UserError, match="began with 2 views, too few for 3 epochs"):
        limit_views(teacher_in(components), 2, recipe, passes=3)


def test_a_view_that_was_let_go_is_read_again_when_it_is_asked_for(tmp_path: Path) -> None:
    (folder,) = make(small_recipe(), tmp_path, views=1)
    bank = BankTeacher(folder.path)
    before = asked(bank, 0)
    bank.release()
    assert not any("View" in type(value).__name__ for value in _held_by(bank))
    assert torch.equal(asked(bank, 0), before)


def test_a_step_that_was_recorded_on_a_view_is_none_of_the_same_view_read_again(tmp_path: Path) -> None:
    """A captured step reads the rows where they lay."""
    (folder,) = make(small_recipe(), tmp_path, views=2)
    bank = BankTeacher(folder.path)
    batches = [Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1), view=view) for view in (0, 1)]
    asked(bank, 0)
    first = bank.baked_in(batches[0])
    assert bank.baked_in(batches[0]) == first != bank.baked_in(batches[1])
    asked(bank, 1)
    asked(bank, 0)
    assert bank.baked_in(batches[0]) != first


def _held_by(bank: BankTeacher) -> list[object]:
    held = [*vars(bank).values()]
    return [*held, *(part for value in held if isinstance(value, tuple) for part in value)]
