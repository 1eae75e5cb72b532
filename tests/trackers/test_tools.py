"""What other tools hold of a run that was stopped and carried on: every step once, settings and results."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from helpers.command_line import refused
from helpers.displays import Eventful, Heard, press_ctrl_c
from helpers.engine import read_metrics, run_recipe, tiny_recipe
from understudy import Recipe
from understudy.runs.folder import RunFolder
from understudy.trackers.base import TRACKERS, Tracker, Trackers
from understudy.trackers.series import numbers
from understudy.utils.interrupted import Interrupted

TOOLS = ("csv", "tensorboard", "wandb", "trackio", "mlflow")
THERE = [name for name in TOOLS if TRACKERS[name].package is None or find_spec(str(TRACKERS[name].package))]
STEPS = [1, 2, 3, 4, 5, 6]


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(name not in THERE, reason=f"{name} is not installed (understudy[{name}])")


def recipe(**over: Any) -> Recipe:
    settings = {"teacher": {"allow_weak": True}, "rows": ["alone", "kd"], "seeds": [0], "log_every": 1}
    return tiny_recipe({**settings, "checkpoint_steps": 2, **over})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """A run with every tool that is installed, killed in step 5 after a checkpoint in step 4, and carried on."""
    folder = tmp_path_factory.mktemp("tools")
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
            patch.delenv(key)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        with pytest.raises(Interrupted):
            run_recipe(recipe(trackers=THERE), folder / "mine", display=Eventful(1, 5, press_ctrl_c))
        newest = max((folder / "mine" / "checkpoints").glob("seed0-*.pt"), key=lambda file: file.stat().st_mtime_ns)
        newest.unlink()  # as a kill before it would have left it
        heard = Heard()
        yield run_recipe(recipe(trackers=THERE), folder / "mine", display=heard)
        assert not [line for line in heard.said if "failed" in line]


def lines_of(run: RunFolder, row: str, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run) if line["row"] == row and line["kind"] == kind]


def values_of(run: RunFolder, row: str, kind: str, key: str) -> list[tuple[int, float]]:
    return [(line["step"], numbers(line)[key]) for line in lines_of(run, row, kind)]


def final_top1(run: RunFolder, row: str) -> float:
    found = next(one for one in json.loads(run.results_file.read_text())["rows"] if one["name"] == row)
    return float(found["seeds"][0]["selected"]["scores"]["top1"])


def test_the_tables_hold_every_line_once(run: RunFolder) -> None:
    with (run.path / "trackers" / "steps.csv").open() as stream:
        steps = list(csv.DictReader(stream))
    with (run.path / "trackers" / "epochs.csv").open() as stream:
        epochs = list(csv.DictReader(stream))
    assert [int(line["step"]) for line in steps if line["row"] == "kd"] == STEPS
    assert [float(line["distill"]) for line in steps if line["row"] == "kd"] == [
        line["distill"] for line in lines_of(run, "kd", "train")
    ]
    assert {line["distill"] for line in steps if line["row"] == "alone"} == {""}
    assert [(line["row"], line["epoch"]) for line in epochs] == [
        ("alone", "1"), ("kd", "1"), ("alone", "2"), ("kd", "2"),
    ]  # fmt: skip
    assert float(epochs[-1]["val.top1"]) == final_top1(run, "kd")


@needs("tensorboard")
@pytest.mark.parametrize("row", ["alone", "kd"])
def test_tensorboard_has_every_step_once_in_a_folder_of_the_row_and_seed(run: RunFolder, row: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.path / "trackers" / "tensorboard" / row / "seed0")).Reload()
    for kind, key in (("train", "train/task_loss"), ("epoch", "val/top1"), ("train", "lr")):
        assert [(one.step, pytest.approx(one.value)) for one in found.Scalars(key)] == values_of(run, row, kind, key)
    assert "settings/text_summary" in found.Tags()["tensors"]
    assert found.Scalars("final/val/top1")[-1].value == pytest.approx(final_top1(run, row))
    assert "hparams" in found.summary_metadata["_hparams_/experiment"].plugin_data.plugin_name


@needs("wandb")
def test_wandb_goes_on_with_the_same_run_of_each_row_without_a_network(run: RunFolder) -> None:
    held = _offline_history(run.path / "trackers" / "wandb")
    ids = {json.loads(line)["series"]: json.loads(line)["id"] for line in _notes(run, "wandb") if '"id"' in line}
    assert set(ids) == {"alone/seed0", "kd/seed0"}
    assert set(held) == set(ids.values())
    for row in ("alone", "kd"):
        history, summary = held[ids[f"{row}/seed0"]]
        assert [step for step, values in history if "train/task_loss" in values] == STEPS
        top1 = [(step, values["val/top1"]) for step, values in history if "val/top1" in values]
        assert top1 == values_of(run, row, "epoch", "val/top1")
        assert summary["final/val/top1"] == final_top1(run, row)


@needs("trackio")
@pytest.mark.parametrize("row", ["alone", "kd"])
def test_trackio_has_every_step_once(run: RunFolder, row: str) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    name = f"mine/{row}/seed0"
    assert [one for one in SQLiteStorage.get_runs("understudy") if one == name] == [name]
    logs = SQLiteStorage.get_logs("understudy", name)
    for kind, key in (("train", "train/task_loss"), ("epoch", "val/top1")):
        assert [(log["step"], log[key]) for log in logs if key in log] == values_of(run, row, kind, key)
    assert logs[-1]["final/val/top1"] == final_top1(run, row)
    assert SQLiteStorage.get_run_config("understudy", name)["student.model"] == "cifar:resnet8"


@needs("mlflow")
def test_mlflow_has_a_run_for_each_row_within_that_of_the_folder(run: RunFolder) -> None:
    from mlflow import MlflowClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = (run.path / "trackers" / "mlruns").as_uri()
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = client.get_experiment_by_name("understudy")
        runs = {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}
        assert set(runs) == {"mine", "alone/seed0", "kd/seed0"}
        assert {one.info.status for one in runs.values()} == {"FINISHED"}
        kd = runs["kd/seed0"]
        assert kd.data.tags["mlflow.parentRunId"] == runs["mine"].info.run_id
        assert runs["mine"].data.tags["headline"]
        assert (kd.data.params["row"], kd.data.params["student.model"]) == ("kd", "cifar:resnet8")
        for kind, key in (("train", "train/task_loss"), ("epoch", "val/top1")):
            history = [(one.step, one.value) for one in client.get_metric_history(kd.info.run_id, key)]
            assert sorted(history) == values_of(run, "kd", kind, key)
        assert kd.data.metrics["final/val/top1"] == final_top1(run, "kd")


def test_trackers_change_nothing_of_what_is_trained(run: RunFolder, tmp_path: Path) -> None:
    plain = run_recipe(recipe(), tmp_path / "mine")
    assert plain.metrics_file.read_bytes() == run.metrics_file.read_bytes()


class Breaks(Tracker):
    """A tool whose network goes away."""

    name = "breaks"
    calls = 0

    def log(self, record: Any) -> None:
        Breaks.calls += 1
        if Breaks.calls == 3:
            raise ConnectionError("the server cannot be reached")


@pytest.mark.parametrize("trackers", [["breaks", "csv"]])
def test_a_tracker_that_fails_is_told_of_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackers: list[str]
) -> None:
    monkeypatch.setitem(TRACKERS, "breaks", Breaks)
    heard = Heard()
    run = run_recipe(recipe(trackers=trackers, rows=["alone"], teacher=None), tmp_path / "x", display=heard)
    assert Breaks.calls == 3
    assert [line for line in heard.said if "breaks" in line] == [
        "warning  tracker breaks failed and is left out from here on; training goes on (ConnectionError: 'the server "
        "cannot be reached')"
    ]
    assert run.is_finished
    with (run.path / "trackers" / "steps.csv").open() as stream:
        assert [int(line["step"]) for line in csv.DictReader(stream)] == STEPS


def test_a_tool_that_is_not_installed_is_named_with_its_extra_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TRACKERS["wandb"], "package", "no_such_wandb")
    message = refused(
        "train", "--data", "digits", "--student", "cifar:resnet8", "--method", "alone", "--tracker", "csv,wandb",
        "--out", tmp_path / "x",
    )  # fmt: skip
    assert "wandb needs no_such_wandb, which is not installed" in message
    assert "pip install 'understudy[wandb]'" in message
    assert not (tmp_path / "x").exists()


@needs("wandb")
def test_wandb_without_a_login_stays_offline_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    for key in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    wandb.teardown()
    said: list[str] = []
    Trackers(["wandb"], tmp_path, {}, say=said.append)
    assert said == [
        f"note     wandb: nobody is logged in, so runs stay in {tmp_path}/trackers/wandb; `wandb sync` sends them"
    ]


def _notes(run: RunFolder, name: str) -> list[str]:
    return (run.path / "trackers" / f"{name}.jsonl").read_text().splitlines()


def _offline_history(folder: Path) -> dict[str, tuple[list[tuple[int, dict[str, Any]]], dict[str, Any]]]:
    """(step, values) of the history, and the summary, by run id, over all files that offline calls have left."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, tuple[list[tuple[int, dict[str, Any]]], dict[str, Any]]] = {}
    for file in sorted(folder.glob("offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        history, summary = found.setdefault(file.stem.removeprefix("run-"), ([], {}))
        for data in _records(file.read_bytes()):
            record = Record.FromString(data)
            values = {_key(item): json.loads(item.value_json) for item in record.history.item}
            if values:
                history.append((values["_step"], values))
            summary.update({_key(item): json.loads(item.value_json) for item in record.summary.update})
    return found


def _key(item: Any) -> str:
    return str(item.key or "/".join(item.nested_key))


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, which begins with seven bytes of W&B's own."""
    block, place, whole = 32_768, 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:  # the end of a block that has no room for a head
            place += block - place % block
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""
