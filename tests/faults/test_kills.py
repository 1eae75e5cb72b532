"""A run that is killed at any moment, again and again, ends as the one left in peace, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.engine import DROPOUT_STUDENT
from helpers.faulty_runs import KILLED, Killing, Server, Tally, files_of, lost_bytes, recipe_file

# One method of each family, and something in each that not every run has.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "logits": ("kd", {"teacher": {"train_epochs": 1}, "ema": 0.9, "checkpoint_steps": 2}),
    "relations": ("dist", {"student": DROPOUT_STUDENT, "checkpoint_steps": 1}),
    "features": ("reviewkd", {"seeds": [0, 1], "epochs": 1}),
    "memory": ("crd", {"method": {"name": "crd", "num_negatives": 16, "embedding_dim": 8}, "checkpoint_steps": 1}),
    "projector": ("projector", {"select_on": "val", "rows": ["alone"]}),
    "teacher-free": ("tfkd", {"accumulate": 2, "checkpoint_steps": 2, "precision": "bfloat16"}),
}
CASES = [(family, update) for family in FAMILIES for update in ("joint", "dot")]
IN_THE_FAST_SUITE = [("logits", "dot"), ("memory", "joint")]


def settings_of(family: str, update: str) -> dict[str, Any]:
    method, over = FAMILIES[family]
    row = method if update == "joint" else f"{method}+dot"
    return {"seeds": [0], "log_every": 2, **over, "rows": [*over.get("rows", []), row]}


def killing_of(server: Server, family: str, update: str, folder: Path) -> Killing:
    return Killing.of(server, recipe_file(folder, settings_of(family, update)), folder / "in peace/run")


@pytest.mark.parametrize(("family", "update"), IN_THE_FAST_SUITE)
def test_a_run_that_is_killed_three_times_ends_the_same_bit_for_bit(
    family: str, update: str, server: Server, tmp_path: Path
) -> None:
    killing = killing_of(server, family, update, tmp_path)
    assert killing.survives(tmp_path, kills=3, seed=f"{family} {update} in short") == (3, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "update"), CASES)
def test_a_run_that_is_killed_at_twenty_random_moments_ends_the_same_bit_for_bit(
    family: str, update: str, server: Server, tmp_path: Path, tally: Tally
) -> None:
    killing = killing_of(server, family, update, tmp_path)
    kills, lost = killing.survives(tmp_path, kills=20, seed=f"{family} {update}")
    tally("SIGKILL at a random moment", injected=kills, recovered=20, lost_bytes=lost)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["event", "write"])
def test_a_run_that_dies_at_its_first_change_of_a_file_then_at_its_second_and_so_on_ends_the_same(
    kind: str, server: Server, tmp_path: Path, tally: Tally
) -> None:
    settings = {"teacher": {"train_epochs": 1}, "rows": ["alone", "kd+dot"], "epochs": 1, "checkpoint_steps": 1}
    killing = Killing.of(server, recipe_file(tmp_path, settings), tmp_path / "in peace/run")
    out, kills = tmp_path / "run", 0
    while (ending := server.run(killing.recipe, out, kill={kind: kills + 1})).code == KILLED:
        kills += 1
    assert ending.code == 0, ending.said
    assert kills > 5
    moment = "just before a change of a file" if kind == "event" else "half-way through writing a file"
    lost = lost_bytes(out, killing.expected)
    tally(f"SIGKILL {moment}, each in turn", injected=kills, recovered=kills, lost_bytes=lost)


WINDOWS = {  # the first change of a file at such a path; what comes before it is done, what comes after is not
    "as the teacher is saved": r"\.teacher\.partial/.*config\.json",
    "as the teacher is put into place": r"\.teacher\.partial$",
    "as the teacher's checkpoints are deleted": r"teacher-\d+\.pt$",
    "as a student is saved": r"students/.*/\.saving-.*/config\.json",
    "as the seed is marked as done": r"\.seed0\.json\.partial",
    "as the seed's checkpoints are deleted": r"seed0-0*[2-9]\.pt$",
    "as the predictions are put together": r"\.student\.partial",
    "as the results are written": r"\.results\.json\.partial",
    "as the page is written": r"\.report\.html\.partial",
}
IN_FAST = ("as a student is saved", "as the page is written")


@pytest.mark.parametrize(
    "window", [window if window in IN_FAST else pytest.param(window, marks=pytest.mark.slow) for window in WINDOWS]
)
def test_a_run_that_is_killed_at_a_bad_moment_ends_the_same_and_leaves_nothing_behind(
    window: str, server: Server, tmp_path: Path, tally: Tally
) -> None:
    settings = {"teacher": {"train_epochs": 1}, "rows": ["alone"], "seeds": [0], "epochs": 1}
    killing = Killing.of(server, recipe_file(tmp_path, settings), tmp_path / "in peace/run")
    out = tmp_path / "run"
    assert server.run(killing.recipe, out, kill={"at": WINDOWS[window]}).code == KILLED
    ending = server.run(killing.recipe, out)
    assert ending.code == 0, ending.said
    assert (out / "report.html").is_file()
    tally("SIGKILL at a bad moment", injected=1, recovered=1, lost_bytes=lost_bytes(out, killing.expected))


@pytest.mark.parametrize("event", [1, 2, 3, 4, 5])
@pytest.mark.slow
def test_a_run_that_dies_before_its_folder_is_known_as_a_run_can_be_started_again(
    event: int, server: Server, tmp_path: Path
) -> None:
    recipe = recipe_file(tmp_path, settings_of("logits", "joint") | {"rows": ["alone"], "teacher": {}})
    kill = {"event": event, "from_the_start": True}
    assert server.run(recipe, tmp_path / "run", kill=kill).code == KILLED
    again = server.run(recipe, tmp_path / "run")
    assert again.code == 0, again.said
    assert not [name for name in files_of(tmp_path / "run") if "partial" in name]


def test_another_recipe_is_refused_in_the_folder_of_a_killed_run_with_the_difference(
    server: Server, tmp_path: Path
) -> None:
    recipe = recipe_file(tmp_path, settings_of("logits", "joint"))
    assert server.run(recipe, tmp_path / "run", kill={"write": 4}).code == KILLED
    other = recipe_file(tmp_path, {**settings_of("logits", "joint"), "epochs": 3})
    refused = server.run(other, tmp_path / "run")
    assert refused.code == 2
    assert "epochs   here 3, there 2" in refused.said
