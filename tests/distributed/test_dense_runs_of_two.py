"""Runs of masks and of boxes by two processes: the folder of one, and a run may change their number on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_shared_runs import differences

from helpers.dense_recipes import TASKS, DenseTask, run_dense
from helpers.two_processes import TwoProcesses
from understudy.runs.folder import RunFolder

ROWS: dict[DenseTask, list[Any]] = {
    "segmentation": ["alone", "dist+dot", {"name": "cwd", "method": {
        "name": "cwd", "student_stages": ["output.logits"], "teacher_stages": ["output.logits"]}},
        {"name": "cirkd", "method": {"name": "cirkd", "student_stages": ["head"], "teacher_stages": ["head"],
        "pixel_weight": 0.1, "region_weight": 0.1, "pixel_memory": 64, "region_memory": 16}}],
    # Not fitnet: its batch norms take the gradient of the pyramid's biases away, but for what is lost in rounding.
    "detection": ["alone", "dist+dot", "dkd", {"name": "at", "method": {
        "name": "at", "student_stages": [0, 1, 2], "teacher_stages": [0, 1, 2]}}],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_write_the_folder_of_one_and_go_on_with_its_run(
    task: DenseTask, pair: TwoProcesses, tmp_path: Path
) -> None:
    rows = {"rows": ROWS[task]}
    assert run_dense(task, rows, tmp_path / "one") is None
    assert pair.call(run_dense, task, rows, tmp_path / "two") == [None, None]
    assert differences(RunFolder(tmp_path / "two"), RunFolder(tmp_path / "one")) == []
    assert run_dense(task, rows, tmp_path / "both", stop_after=4) == "stopped after step 4"
    assert pair.call(run_dense, task, rows, tmp_path / "both") == [None, None]
    assert differences(RunFolder(tmp_path / "both"), RunFolder(tmp_path / "one")) == []
