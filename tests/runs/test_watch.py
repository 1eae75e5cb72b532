"""What is seen of a run while another process carries it on, or after it was stopped."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from helpers.command_line import done, understudy
from helpers.displays import Eventful, press_ctrl_c
from helpers.engine import reproducible_files, run_recipe, tiny_recipe
from understudy.runs import console, watch
from understudy.runs.folder import RunFolder
from understudy.utils.interrupted import Interrupted
from understudy.utils.lock import held, is_held

RECIPE = tiny_recipe({"teacher": {"train_epochs": 1}})


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose teacher and first seed are done, stopped in the second epoch of its second seed."""
    out = tmp_path_factory.mktemp("stopped") / "mine"
    with pytest.raises(Interrupted):
        run_recipe(RECIPE, out, display=Eventful(3, 4, press_ctrl_c))
    return RunFolder(out)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run, which nobody stopped."""
    return run_recipe(RECIPE, tmp_path_factory.mktemp("finished") / "mine")


@pytest.fixture
def copied(stopped: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(stopped.path, tmp_path / "mine"))


@pytest.fixture(autouse=True)
def _is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", -9.0)
    monkeypatch.setattr(console, "LINES_A_SECOND", 1e9)


def shown_epochs(said: str) -> list[list[str]]:
    return [line.split()[:2] for line in said.splitlines() if line.strip()[:2] in ("1/", "2/")]


def test_the_report_of_a_stopped_run_says_how_far_it_is_and_marks_its_page(copied: RunFolder) -> None:
    said = done("report", copied.path)
    lines = [line.split() for line in said.splitlines()]
    assert [line[:3] for line in lines if line and line[0] in ("teacher", "alone", "kd+dot")] == [
        ["teacher", "0", "1/1"], ["alone", "0", "2/2"], ["kd+dot", "0", "2/2"], ["alone", "1", "1/2"],
        ["kd+dot", "1", "1/2"],
    ]  # fmt: skip
    assert "Unfinished: epoch 1 of 2 of seed 1 (2 of 2) is done; it was stopped, and the command that began it" in said
    page = copied.report_file.read_text()
    assert "<title>mine (unfinished)</title>" in page
    assert 'class="lead">Unfinished: epoch 1 of 2 of seed 1' in page
    assert "Curves so far" in page
    assert "<svg" in page
    assert "task_weight" in page  # the recipe


def test_the_table_of_an_unfinished_run_is_there_for_a_pipe(copied: RunFolder) -> None:
    said = understudy("report", copied.path, "--format", "csv")
    found = list(csv.DictReader(io.StringIO(said.out)))
    assert (found[-1]["row"], found[-1]["seed"], found[-1]["epoch"]) == ("kd+dot", "1", "1")
    assert float(found[-1]["best_top1"]) == float(found[-1]["top1"])
    assert said.err.startswith("Unfinished: ")


def test_the_report_of_a_running_run_says_that_it_goes_on(copied: RunFolder) -> None:
    with held(copied.path, what="run folder"):
        assert "is done; the run goes on, about 0:00:0" in done("report", copied.path)


def test_a_run_of_which_no_epoch_is_done_has_a_page_too(copied: RunFolder) -> None:
    copied.metrics_file.write_text("")
    assert "Unfinished: no epoch is done yet; it was stopped" in done("report", copied.path)
    assert "Curves so far" not in copied.report_file.read_text()


def test_a_run_goes_on_after_its_report_to_the_same_files_and_a_finished_page(
    copied: RunFolder, finished: RunFolder
) -> None:
    done("report", copied.path)
    run = run_recipe(RECIPE, copied.path)
    assert reproducible_files(run) == reproducible_files(finished)
    assert "Unfinished" not in run.report_file.read_text()


def test_watching_a_stopped_run_shows_where_it_stands_and_ends(copied: RunFolder) -> None:
    before = sorted(copied.path.rglob("*"))
    said = done("watch", copied.path)
    assert shown_epochs(said) == [
        ["1/1", "teacher"], ["1/2", "alone"], ["1/2", "kd+dot"], ["2/2", "alone"], ["2/2", "kd+dot"],
        ["1/2", "alone"], ["1/2", "kd+dot"],
    ]  # fmt: skip
    assert "seed 2/2" in said
    assert "is not running: the command that began it goes on from here" in said
    assert sorted(copied.path.rglob("*")) == before


def test_watching_follows_a_running_run_and_ends_with_it(copied: RunFolder, finished: RunFolder) -> None:
    lines = finished.metrics_file.read_text().splitlines(keepends=True)
    copied.metrics_file.write_text("")

    def carry_on() -> None:
        with held(copied.path, what="run folder"):
            for line in lines:
                with copied.metrics_file.open("a") as stream:  # in halves, as it may be met
                    stream.write(line[:20])
                    stream.flush()
                    time.sleep(0.01)
                    stream.write(line[20:])
            for file in (finished.timing_file, finished.results_file):
                shutil.copy(file, copied.path)

    process = threading.Thread(target=carry_on)
    process.start()
    while not is_held(copied.path):
        time.sleep(0.001)
    said = done("watch", copied.path)
    process.join()
    epochs = [json.loads(line) for line in lines if json.loads(line)["kind"] == "epoch"]
    assert shown_epochs(said) == [
        [f"{one['epoch']}/{1 if one['row'] == 'teacher' else 2}", one["row"]] for one in epochs
    ]
    assert "Page: " in said


def test_ctrl_c_ends_the_watching_alone(copied: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with held(copied.path, what="run folder"):
        monkeypatch.setattr(watch.time, "sleep", interrupted)
        assert "not watched any more; the run itself goes on" in done("watch", copied.path)
        assert is_held(copied.path)
    assert is_held(copied.path) is False


def test_a_run_of_many_epochs_is_shown_from_its_newest_ones(copied: RunFolder) -> None:
    lines = [json.loads(line) for line in copied.metrics_file.read_text().splitlines()]
    one = next(line for line in lines if line["kind"] == "epoch")
    copied.recipe_file.write_text(copied.recipe_file.read_text().replace("\nepochs: 2\n", "\nepochs: 100\n"))
    many = [json.dumps({**one, "row": "alone", "seed": 0, "epoch": epoch}) for epoch in range(1, 61)]
    copied.metrics_file.write_text("\n".join(many) + "\n")
    said = done("watch", copied.path)
    assert "60/100" in said
    assert "51/100" in said
    assert "50/100" not in said


def test_added_lines_are_given_once_and_a_file_that_is_cut_back_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = watch.AddedLines(file)
    assert list(lines.read()) == []
    file.write_text('{"step": 1}\nno json\n[1]\n{"step": 2}\n{"ste')
    assert list(lines.read()) == [{"step": 1}, {"step": 2}]
    file.write_text('{"step": 1}\n')
    assert list(lines.read()) == []
    file.write_text('{"step": 1}\n{"step": 2}\n')
    assert list(lines.read()) == [{"step": 2}]
