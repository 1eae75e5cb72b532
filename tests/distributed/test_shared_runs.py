"""A whole run by two processes: one folder, and the number of processes may change on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.displays import Eventful, press_ctrl_c
from helpers.engine import run_recipe, tiny_recipe
from helpers.states import flat
from helpers.two_processes import TwoProcesses
from understudy.runs.folder import RunFolder
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted

# 80 training images, three steps an epoch; 101 validation images: 50 for the first process, 51 for the second.
SETTINGS: dict[str, Any] = {
    "data": {"val_rows": "1000:1101"},
    "student": {"model": "helpers.row_wise_networks:resnet8"},
    "rows": ["alone", "crd+kd", "projector+dot"],
    "seeds": [0],
    "epochs": 3,
    "device": "cpu",
    "teacher": {"train_epochs": 0},
}


def run(out: Path, stop_after: int | None = None, over: dict[str, Any] | None = None) -> str | None:
    """Run, or go on, as many processes as there are; what an early end is called."""
    display = None if stop_after is None else Eventful(1, stop_after, press_ctrl_c)
    try:
        run_recipe(tiny_recipe({**SETTINGS, **(over or {})}), out, display=display, allow_code=True)
    except (Interrupted, UserError) as stop:
        return str(stop)
    return None


@pytest.fixture(scope="module")
def by_one(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("one") / "run"
    run(out)
    return RunFolder(out)


def lines_of(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics_file.read_text().splitlines()]


def differences(folder: RunFolder, expected: RunFolder, limit: float = 1e-4) -> list[str]:
    """What of two runs' metrics and weights is further apart than rounding of float32 accounts for."""
    found = []
    lines = list(zip(lines_of(folder), lines_of(expected), strict=True))
    for number, (line, other) in enumerate(lines):
        one, same = (flat(each) for each in (line, other))
        assert list(one) == list(same)
        far = [key for key, value in one.items() if not is_near(value, same[key], limit)]
        found += [f"line {number}: {key} {one[key]} {same[key]}" for key in far]
    files = [path.relative_to(expected.path) for path in expected.path.glob("students/*/*/*.safetensors")]
    assert files
    for file in files:
        one, same = (load_file(each.path / file) for each in (folder, expected))
        apart = {name: (one[name] - tensor).abs().max() / tensor.abs().max() for name, tensor in same.items()}
        found += [f"{file}: {name} {distance:.1e}" for name, distance in apart.items() if distance > limit]
    return found


def is_near(value: Any, other: Any, limit: float) -> bool:
    if not isinstance(value, float):
        return bool(value == other)
    return value == pytest.approx(other, rel=limit, abs=1e-3)


def test_two_processes_write_the_folder_of_one_once(by_one: RunFolder, pair: TwoProcesses, tmp_path: Path) -> None:
    assert pair.call(run, tmp_path / "run") == [None, None]
    folder = RunFolder(tmp_path / "run")
    assert differences(folder, by_one) == []
    names = [{str(file.relative_to(each.path)) for file in each.path.rglob("*")} for each in (folder, by_one)]
    assert names[0] == names[1]
    results = json.loads(folder.results_file.read_text())
    assert [row["name"] for row in results["rows"]] == SETTINGS["rows"]
    predictions = load_file(folder.predictions_file)
    assert torch.equal(predictions["val/labels"], load_file(by_one.predictions_file)["val/labels"])
    assert {len(tensor) for tensor in predictions.values()} == {101}
    (whole,) = [line for line in folder.timing_file.read_text().splitlines() if '"kind": "run"' in line]
    assert json.loads(whole)["processes"] == 2


@pytest.mark.parametrize("step", [4, pytest.param(6, marks=pytest.mark.slow)])
def test_a_run_of_one_process_goes_on_in_two(step: int, by_one: RunFolder, pair: TwoProcesses, tmp_path: Path) -> None:
    """In the middle of an epoch, and at its end."""
    assert run(tmp_path / "run", step) == f"stopped after step {step}"
    assert pair.call(run, tmp_path / "run") == [None, None]
    assert differences(RunFolder(tmp_path / "run"), by_one) == []


@pytest.mark.parametrize("step", [4, pytest.param(6, marks=pytest.mark.slow)])
def test_a_run_of_two_processes_goes_on_in_one(
    step: int, by_one: RunFolder, pair: TwoProcesses, tmp_path: Path
) -> None:
    """The signal reaches the first process alone; both stop after the same step."""
    assert pair.call(run, tmp_path / "run", step) == [f"stopped after step {step}"] * 2
    assert run(tmp_path / "run") is None
    assert differences(RunFolder(tmp_path / "run"), by_one) == []


@pytest.mark.slow
def test_a_run_of_two_that_goes_on_in_two_ends_the_same_bit_for_bit(pair: TwoProcesses, tmp_path: Path) -> None:
    """Dropout included: each process finds its own random state again."""
    over = {"student": {"model": "helpers.row_wise_networks:dropout"}}
    assert pair.call(run, tmp_path / "straight", None, over) == [None, None]
    assert pair.call(run, tmp_path / "stopped", 4, over) == ["stopped after step 4"] * 2
    assert pair.call(run, tmp_path / "stopped", None, over) == [None, None]
    straight, stopped = (RunFolder(tmp_path / name) for name in ("straight", "stopped"))
    assert stopped.metrics_file.read_bytes() == straight.metrics_file.read_bytes()
    for file in straight.path.glob("students/*/*/*.safetensors"):
        assert (stopped.path / file.relative_to(straight.path)).read_bytes() == file.read_bytes()
    assert stopped.predictions_file.read_bytes() == straight.predictions_file.read_bytes()


def test_what_every_process_needs_is_refused_in_each(pair: TwoProcesses, tmp_path: Path) -> None:
    said = pair.call(run, tmp_path / "run", None, {"sync_batch_norm": True})
    assert [text.partition(",")[0] for text in said] == ["sync_batch_norm: torch has it for GPUs only"] * 2
    assert not (tmp_path / "run").exists()
