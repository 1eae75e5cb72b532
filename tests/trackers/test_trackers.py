"""Who keeps the lines of a run: metrics.jsonl always, and whatever else its recipe names."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.command_line import documented, install, refused
from helpers.displays import Eventful, press_ctrl_c
from helpers.engine import read_metrics, run_recipe, tiny_recipe
from understudy import Recipe, UserError
from understudy.runs import checkpoint
from understudy.runs.folder import RunFolder
from understudy.trackers.base import TRACKERS, Tracker
from understudy.utils.interrupted import Interrupted

SETTINGS = {"teacher": None, "rows": ["alone"], "seeds": [0], "log_every": 1, "checkpoint_steps": 2}


@pytest.fixture
def tally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tracker of the document, in a package that is installed beside understudy, and forgotten afterwards."""
    install(tmp_path / "site", "own_tally", documented("Tally"), group="understudy.trackers")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    TRACKERS.pop("tally", None)
    sys.modules.pop("own_tally", None)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run that nobody stopped."""
    return run_recipe(recipe(), tmp_path_factory.mktemp("straight") / "run")


def recipe(**over: Any) -> Recipe:
    return tiny_recipe({**SETTINGS, **over})


def stopped(recipe: Recipe, out: Path, *, after: int) -> None:
    """The run of a recipe, stopped by a person in the middle of its training."""
    with pytest.raises(Interrupted):
        run_recipe(recipe, out, display=Eventful(1, after, press_ctrl_c))


def kinds(run: RunFolder) -> list[str]:
    return [line["kind"] for line in read_metrics(run)]


def tallied(run: RunFolder) -> list[str]:
    return (run.path / "trackers" / "tally.txt").read_text().splitlines()


def test_a_tracker_of_a_package_gets_every_line_once_over_a_stop(
    tally: None, straight: RunFolder, tmp_path: Path
) -> None:
    importlib.import_module("own_tally")
    tracked = recipe(trackers=["jsonl", "tally"])
    stopped(tracked, tmp_path / "x", after=5)
    assert (tmp_path / "x" / "trackers" / "end.txt").read_text() == "stopped"
    with (tmp_path / "x" / "trackers" / "tally.txt").open("a") as stream:
        stream.write("of a call that died after its last checkpoint\n")
    run = run_recipe(tracked, tmp_path / "x")
    assert tallied(run) == kinds(run) == kinds(straight)
    assert run.metrics_file.read_bytes() == straight.metrics_file.read_bytes()
    assert (run.path / "trackers" / "end.txt").read_text() == "alone"


def test_a_run_goes_on_with_another_tracker_which_gets_what_is_left(tally: None, tmp_path: Path) -> None:
    importlib.import_module("own_tally")
    stopped(recipe(), tmp_path / "x", after=4)
    before = kinds(RunFolder(tmp_path / "x"))
    run = run_recipe(recipe(trackers="tally"), tmp_path / "x")
    assert tallied(run) == kinds(run)[len(before) :]
    assert run.recipe()["trackers"] == ["jsonl", "tally"]


def test_a_checkpoint_of_before_there_were_trackers_is_gone_on_from(straight: RunFolder, tmp_path: Path) -> None:
    stopped(recipe(), tmp_path / "x", after=4)
    run = RunFolder(tmp_path / "x")
    state = checkpoint.load_latest(run.checkpoints, "seed0", say=print)
    assert state is not None
    state["metrics_bytes"] = state.pop("trackers")["jsonl"]["bytes"]
    checkpoint.save(run.checkpoints, "seed0", 4, state)
    with run.metrics_file.open("a") as stream:
        stream.write(json.dumps({"kind": "after the checkpoint"}) + "\n")
    assert run_recipe(recipe(), run.path).metrics_file.read_bytes() == straight.metrics_file.read_bytes()


def test_the_file_is_kept_whatever_the_recipe_says() -> None:
    assert recipe(trackers=[]).trackers == ("jsonl",)


def test_an_unknown_tracker_is_refused_with_the_nearest_name(tally: None) -> None:
    message = refused("check", "--data", "digits", "--student", "cifar:resnet8", "trackers=[tely]")
    assert "trackers 'tely' is unknown; did you mean tally?" in message


def test_another_tracker_of_its_name_is_refused() -> None:
    with pytest.raises(ValueError, match="there is a tracker 'jsonl' already: understudy"):

        class Other(Tracker, name="jsonl"):
            """Another one."""


def test_metrics_that_are_shorter_than_the_checkpoint_knows_are_refused(tmp_path: Path) -> None:
    stopped(recipe(), tmp_path / "x", after=4)
    RunFolder(tmp_path / "x").metrics_file.write_bytes(b"")
    with pytest.raises(UserError, match=r"metrics.jsonl lacks [\d,]+ bytes that the newest checkpoint knows of"):
        run_recipe(recipe(), tmp_path / "x")
