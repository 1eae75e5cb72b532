"""A run that is stopped, or dies, and goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from helpers.displays import Eventful, Heard, press_ctrl_c
from helpers.engine import DROPOUT_STUDENT, reproducible_files, run_recipe, tiny_recipe
from understudy import Recipe, UserError
from understudy.runs.checkpoint import load_latest
from understudy.runs.folder import RunFolder
from understudy.runs.stop import StopRequest
from understudy.utils.interrupted import Interrupted

# A teacher that is trained, then two seeds of three rows: training stretches 1, 2, 3 of three, six and six steps.
INTERRUPTIBLE = {
    "teacher": {"train_epochs": 1},
    "student": DROPOUT_STUDENT,
    "rows": ["alone", "kd+dot", "projector"],
}
PLACES = {
    "in the teacher's epoch": (1, 2),
    "at the end of the teacher's epoch": (1, 3),
    "in the middle of an epoch": (2, 2),
    "at an epoch's end": (2, 3),
    "at a seed's end": (2, 6),
    "between two seeds": (3, 0),
    "in the last seed": (3, 5),
}


class PowerLostError(Exception):
    """Ends the run on the spot, as if the process were gone."""


def cut_the_power() -> None:
    raise PowerLostError


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return tiny_recipe(INTERRUPTIBLE)


@pytest.fixture(scope="module")
def uninterrupted(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return reproducible_files(run_recipe(recipe, tmp_path_factory.mktemp("straight") / "run"))


def unequal(run: RunFolder, expected: dict[str, bytes]) -> list[str]:
    found = reproducible_files(run)
    return [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]


class TestResume:
    @pytest.mark.slow
    @pytest.mark.parametrize("place", list(PLACES))
    def test_a_run_that_is_stopped_goes_on_and_ends_the_same_bit_for_bit(
        self, place: str, recipe: Recipe, uninterrupted: dict[str, bytes], tmp_path: Path
    ) -> None:
        stretch, step = PLACES[place]
        with pytest.raises(Interrupted) as stopped:
            run_recipe(recipe, tmp_path / "run", display=Eventful(stretch, step, press_ctrl_c))
        assert (stopped.value.step, stopped.value.signal) == (max(step, 1), signal.SIGINT)
        assert unequal(run_recipe(recipe, tmp_path / "run"), uninterrupted) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("place", list(PLACES))
    def test_a_run_that_dies_goes_on_from_its_last_checkpoint_and_ends_the_same_bit_for_bit(
        self, place: str, recipe: Recipe, uninterrupted: dict[str, bytes], tmp_path: Path
    ) -> None:
        with pytest.raises(PowerLostError):
            run_recipe(recipe, tmp_path / "run", display=Eventful(*PLACES[place], cut_the_power))
        assert unequal(run_recipe(recipe, tmp_path / "run"), uninterrupted) == []

    @pytest.mark.parametrize(
        ("event", "ending"), [(press_ctrl_c, Interrupted), (cut_the_power, PowerLostError)], ids=["stopped", "cut off"]
    )
    def test_a_run_that_ends_early_at_every_place_in_turn_ends_the_same_bit_for_bit(
        self,
        event: Callable[[], None],
        ending: type[Exception],
        recipe: Recipe,
        uninterrupted: dict[str, bytes],
        tmp_path: Path,
    ) -> None:
        # Stretches are counted anew at each start: in the teacher's epoch and at its end, in the first seed's first
        # step, in the middle of an epoch, at its end, at the seed's end, between two seeds, in the second seed.
        for stretch, step in ((1, 2), (1, 3), (2, 1), (1, 2), (1, 3), (1, 6), (2, 0), (1, 5)):
            display = Eventful(stretch, step, event)
            with pytest.raises(ending):
                run_recipe(recipe, tmp_path / "run", display=display)
        assert unequal(run_recipe(recipe, tmp_path / "run"), uninterrupted) == []

    def test_it_is_said_where_a_run_goes_on(self, recipe: Recipe, tmp_path: Path) -> None:
        with pytest.raises(Interrupted):
            run_recipe(recipe, tmp_path / "run", display=Eventful(2, 4, press_ctrl_c))
        display = Eventful(1, 5, press_ctrl_c)
        with pytest.raises(Interrupted):
            run_recipe(recipe, tmp_path / "run", display=display)
        assert "seed 1/2 goes on in epoch 2, after step 1 of it" in display.said

    def test_a_checkpoint_is_written_after_every_epoch_and_on_a_stop(self, recipe: Recipe, tmp_path: Path) -> None:
        with pytest.raises(Interrupted):
            run_recipe(recipe, tmp_path / "run", display=Eventful(2, 4, press_ctrl_c))
        state = load_latest(tmp_path / "run/checkpoints", "seed0", say=lambda text: None)
        assert state is not None
        assert (state["trainer"]["epoch"], state["trainer"]["step_in_epoch"]) == (2, 1)
        assert len(list((tmp_path / "run/checkpoints").glob("seed0-*.pt"))) == 2

    def test_minutes_may_pass_between_checkpoints_but_not_more_than_the_recipe_says(self, tmp_path: Path) -> None:
        hasty = tiny_recipe({"checkpoint_minutes": 1e-9, "rows": ["alone"]})
        with pytest.raises(PowerLostError):
            run_recipe(hasty, tmp_path / "run", display=Eventful(1, 3, cut_the_power))
        state = load_latest(tmp_path / "run/checkpoints", "seed0", say=lambda text: None)
        assert state is not None
        assert (state["trainer"]["epoch"], state["trainer"]["step_in_epoch"]) == (1, 2)

    def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(
        self, recipe: Recipe, uninterrupted: dict[str, bytes], tmp_path: Path
    ) -> None:
        with pytest.raises(Interrupted):
            run_recipe(recipe, tmp_path / "run", display=Eventful(2, 5, press_ctrl_c))
        newest = max((tmp_path / "run/checkpoints").glob("seed0-*.pt"))
        os.truncate(newest, newest.stat().st_size // 2)
        display = Eventful(9, 9, cut_the_power)  # which never comes
        assert unequal(run_recipe(recipe, tmp_path / "run", display=display), uninterrupted) == []
        assert f"checkpoint {newest.name} is damaged; falling back to the one before" in display.said

    def test_a_run_without_a_whole_checkpoint_does_not_start_afresh(self, recipe: Recipe, tmp_path: Path) -> None:
        with pytest.raises(Interrupted):
            run_recipe(recipe, tmp_path / "run", display=Eventful(2, 5, press_ctrl_c))
        for file in (tmp_path / "run/checkpoints").glob("seed0-*.pt"):
            os.truncate(file, 10)
        with pytest.raises(UserError, match=r"none of the 2 checkpoints seed0-\*\.pt in .* is whole"):
            run_recipe(recipe, tmp_path / "run")

    def test_another_recipe_in_the_folder_of_an_unfinished_run_is_refused_with_the_difference(
        self, recipe: Recipe, tmp_path: Path
    ) -> None:
        with pytest.raises(Interrupted):
            run_recipe(recipe, tmp_path / "run", display=Eventful(2, 1, press_ctrl_c))
        other = tiny_recipe({**INTERRUPTIBLE, "epochs": 3})
        with pytest.raises(UserError, match=r"unfinished run of another recipe.*\n  epochs   here 3, there 2"):
            run_recipe(other, tmp_path / "run")


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_signal_is_remembered_and_handlers_are_put_back(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        with StopRequest().listening() as stop:
            assert stop.signal is None
            signal.raise_signal(number)
            assert stop.signal == number
        assert signal.getsignal(number) is before

    def test_a_second_ctrl_c_stops_at_once(self) -> None:
        with StopRequest().listening():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # not impatience: whoever stops jobs repeats itself
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


LONG = {"rows": [], "method": "kd", "seeds": [0], "epochs": 40, "log_every": 1}


@pytest.fixture(scope="module")
def long_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "long.yaml"
    file.write_text(yaml.safe_dump(tiny_recipe(LONG).as_dict()))
    return file


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return reproducible_files(run_recipe(tiny_recipe(LONG), tmp_path_factory.mktemp("long") / "run"))


def started(recipe: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "understudy", "train", str(recipe), "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing happened for ten minutes"
        time.sleep(0.01)


def num_lines(run: Path) -> int:
    return (run / "metrics.jsonl").read_bytes().count(b"\n") if (run / "metrics.jsonl").exists() else 0


class TestProcess:
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
    )
    def test_a_signal_ends_the_step_saves_says_so_and_the_same_command_goes_on(
        self, number: signal.Signals, code: int, long_recipe: Path, long_run: dict[str, bytes], tmp_path: Path
    ) -> None:
        process = started(long_recipe, tmp_path / "run")
        wait_until(lambda: num_lines(tmp_path / "run") >= 7, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=600)  # tests/faults/test_signals.py holds it to ten seconds
        assert process.returncode == code
        steps = [json.loads(line)["step"] for line in metrics_of(tmp_path / "run") if '"kind": "train"' in line]
        assert errors.splitlines()[-1] == f"stopped after step {steps[-1]}; the same command continues from here"
        assert "Traceback" not in errors
        assert unequal(run_recipe(tiny_recipe(LONG), tmp_path / "run"), long_run) == []

    @pytest.mark.slow
    def test_a_process_that_is_killed_again_and_again_ends_the_same_bit_for_bit(
        self, long_recipe: Path, long_run: dict[str, bytes], tmp_path: Path
    ) -> None:
        for lines in (1, 30, 70, 110):
            process = started(long_recipe, tmp_path / "run")
            wait_until(lambda lines=lines: num_lines(tmp_path / "run") >= lines, process)
            process.kill()
            process.communicate()
        process = started(long_recipe, tmp_path / "run")
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        # A kill in the middle of deleting a checkpoint leaves its checksum, which counts for nothing.
        found = unequal(RunFolder(tmp_path / "run"), long_run)
        assert [name for name in found if not name.startswith("checkpoints/")] == []


def metrics_of(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def test_how_long_a_run_is_going_to_take_is_said_after_a_few_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.runs.watcher.WORTH_SAYING_SECONDS", 0.0)
    display = Heard()
    run_recipe(tiny_recipe({"rows": ["alone"], "seeds": [0], "epochs": 5}), tmp_path / "run", display=display)
    (line,) = [text for text in display.said if "s an epoch" in text]
    assert re.fullmatch(r"training: about \d+ s an epoch without evaluation, \d:\d\d:\d\d in all, \d+\.\d GiB", line)


def test_how_long_the_seeds_to_come_are_going_to_take_is_said_with_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.runs.watcher.WORTH_SAYING_SECONDS", 0.0)
    monkeypatch.setattr("understudy.runs.watcher.clock", lambda seconds: f"{seconds:.3f}")
    display = Heard()
    run_recipe(tiny_recipe({"rows": ["alone"], "seeds": [3, 1], "epochs": 5}), tmp_path / "run", display=display)
    first, second = [text for text in display.said if "s an epoch" in text]
    this, whole = map(float, re.findall(r"(\d+\.\d+) (?:for this seed|with those to come)", first))
    assert first.startswith("seed 1/2: ")
    assert whole > 2 * this  # of the first, steps are over
    assert " in all, " in second
