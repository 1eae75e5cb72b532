"""A loss or a weight that is NaN or infinite: the run stops with its name, or goes on without the step that did it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.displays import Eventful
from helpers.engine import read_metrics, run_recipe, tiny_recipe
from helpers.faulty_runs import Tally, files_of, lost_bytes
from understudy import Method, MethodConfig, Recipe, UserError
from understudy.core.batch import Pairing
from understudy.methods import METHODS
from understudy.runs.checkpoint import load_latest
from understudy.runs.components import open_components
from understudy.runs.folder import RunFolder

FATAL_IMAGE = 7  # of the 80: once an epoch, in one of its three steps


class PowerLostError(Exception):
    """Ends the run on the spot."""


def cut_the_power() -> None:
    raise PowerLostError


@pytest.fixture(autouse=True)
def spoiling_method() -> Iterator[None]:
    """A method `spoils` that gives no number, or no gradient that is one, for one image."""

    class Spoils(Method, name="spoils"):
        needs = frozenset({"indices"})

        class Config(MethodConfig):
            what: str = "the loss"

        def forward(self, pairing: Pairing) -> dict[str, Tensor]:
            assert pairing.indices is not None
            zero = (pairing.student_logits - pairing.student_logits.detach()).sum()
            if not (pairing.indices == FATAL_IMAGE).any():
                return {"spoils": zero}
            # The square root of zero is zero, and infinitely steep.
            return {"spoils": zero * math.nan if self.config.what == "the loss" else zero.sqrt()}

    yield
    METHODS.pop("spoils")


def recipe_with(what: str = "the loss", **over: Any) -> Recipe:
    method = {"name": "spoils", "what": what}
    return tiny_recipe({"method": method, "rows": ["alone", "spoils"], "seeds": [0], "log_every": 100, **over})


def fatal_steps(recipe: Recipe) -> list[int]:
    """Which steps the fatal image is in."""
    parts = open_components(recipe, allow_code=False, say=lambda text: None)
    loader = parts.train_loader(recipe.seeds[0])
    return [
        loader.steps_per_epoch * (epoch - 1) + number
        for epoch in range(1, recipe.epochs + 1)
        for number, batch in enumerate(loader.epoch(epoch), start=1)
        if batch.indices is not None and (batch.indices == FATAL_IMAGE).any()
    ]


def rollbacks(run: RunFolder) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run) if line["kind"] == "rollback"]


class TestStop:
    def test_the_run_stops_with_step_and_term_and_a_checkpoint_from_before(self, tmp_path: Path, tally: Tally) -> None:
        recipe = recipe_with(checkpoint_steps=1)
        fatal = fatal_steps(recipe)[0]
        with pytest.raises(UserError, match=rf"spoils: spoils is nan in step {fatal}; training stopped"):
            run_recipe(recipe, tmp_path / "run")
        state = load_latest(tmp_path / "run/checkpoints", "seed0", say=lambda text: None)
        assert state is not None
        trainer = state["trainer"]
        assert 3 * (trainer["epoch"] - 1) + trainer["step_in_epoch"] == fatal - 1
        weights = [tensor for student in trainer["students"].values() for tensor in student["model"].values()]
        assert all(bool(torch.as_tensor(tensor).isfinite().all()) for tensor in weights)
        tally("loss that is NaN, on_nan: stop", injected=1, recovered=1)

    @pytest.mark.parametrize("what", ["the loss", "its gradient"])
    def test_no_checkpoint_ever_holds_what_is_no_number(self, what: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="training stopped"):
            run_recipe(recipe_with(what), tmp_path / "run")
        state = load_latest(tmp_path / "run/checkpoints", "seed0", say=lambda text: None)
        assert state is not None
        assert all(tensor.isfinite().all() for tensor in state["trainer"]["students"]["spoils"]["model"].values())

    def test_the_run_goes_on_in_its_folder_as_the_message_says_with_rollback(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="or on_nan=rollback to go on without that step"):
            run_recipe(recipe_with(), tmp_path / "run")
        run = run_recipe(recipe_with(on_nan="rollback"), tmp_path / "run")
        assert [line["step"] for line in rollbacks(run)] == fatal_steps(recipe_with())


class TestRollback:
    @pytest.mark.parametrize("what", ["the loss", "its gradient"])
    def test_the_steps_that_did_it_are_left_out_and_no_others(self, what: str, tmp_path: Path, tally: Tally) -> None:
        recipe = recipe_with(what, on_nan="rollback")
        run = run_recipe(recipe, tmp_path / "run")
        assert [line["step"] for line in rollbacks(run)] == fatal_steps(recipe)
        assert {line["row"] for line in rollbacks(run)} == {"spoils"}
        why = {"the loss": "spoils is nan", "its gradient": "a weight is NaN or infinite"}[what]
        assert {line["why"] for line in rollbacks(run)} == {why}
        assert all(line["train"]["task_loss"] > 0 for line in read_metrics(run) if line["kind"] == "epoch")
        tally(f"{what} is NaN or infinite, on_nan: rollback", injected=2, recovered=len(rollbacks(run)))

    @pytest.mark.parametrize("every", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_it_does_not_matter_when_checkpoints_were_written(self, every: int, tmp_path: Path) -> None:
        found = [
            files_of(run_recipe(recipe_with("its gradient", on_nan="rollback", **steps), tmp_path / name / "run").path)
            for name, steps in (("without", {}), ("with", {"checkpoint_steps": every}))
        ]
        unequal = [name for name in found[0] if found[0][name] != found[1][name]]
        assert unequal == ["recipe.yaml"]  # which says so

    def test_a_run_that_dies_after_a_rollback_ends_the_same_bit_for_bit(self, tmp_path: Path) -> None:
        recipe = recipe_with("its gradient", on_nan="rollback", checkpoint_steps=1)
        expected = files_of(run_recipe(recipe, tmp_path / "in peace/run").path)
        for step in range(2, 7):
            with pytest.raises(PowerLostError):
                run_recipe(recipe, tmp_path / "run", display=Eventful(1, step, cut_the_power))
        assert lost_bytes(run_recipe(recipe, tmp_path / "run").path, expected) == 0

    def test_after_three_steps_that_were_left_out_the_run_stops(self, tmp_path: Path) -> None:
        recipe = recipe_with("its gradient", on_nan="rollback", epochs=4)
        with pytest.raises(UserError, match=r"is NaN or infinite|nan in step \d+ after 3 steps were left out"):
            run_recipe(recipe, tmp_path / "run")
        # Nor is there a fourth chance for a run that is started again.
        with pytest.raises(UserError, match="after 3 steps were left out"):
            run_recipe(recipe, tmp_path / "run")

    def test_an_interval_of_steps_that_were_all_left_out_has_no_line(self, tmp_path: Path) -> None:
        run = run_recipe(recipe_with(on_nan="rollback", log_every=1), tmp_path / "run")
        left_out = {line["step"] for line in rollbacks(run)}
        logged = {line["step"] for line in read_metrics(run) if line["kind"] == "train"}
        assert left_out
        assert left_out.isdisjoint(logged)
        assert left_out | logged == set(range(1, 7))
