"""Two processes that learn from one bank of a pyramid, each of its part of batches padded for the whole step."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_shared_runs import differences

from helpers.banked import make
from helpers.dense_recipes import dense_recipe, run_dense
from helpers.two_processes import TwoProcesses
from understudy.runs.folder import RunFolder
from understudy.teachers.bank.teacher import BankTeacher

AT = {"name": "at", "student_stages": [0, 1, 2], "teacher_stages": [0, 1, 2]}
SETTINGS = {"data": {"shorter_sides": [48, 80]}, "rows": ["alone", {"name": "at", "method": AT}]}


@pytest.mark.slow
def test_two_processes_write_the_folder_of_one_from_a_bank_and_go_on_with_its_run(
    pair: TwoProcesses, tmp_path: Path
) -> None:
    make(dense_recipe("detection", SETTINGS), tmp_path / "bank", feature_maps=True)
    assert BankTeacher(tmp_path / "bank/seed0").manifest.layout.canvas == "batch"
    banked = {**SETTINGS, "bank": {"path": str(tmp_path / "bank")}}
    assert run_dense("detection", banked, tmp_path / "one") is None
    assert pair.call(run_dense, "detection", banked, tmp_path / "two") == [None, None]
    assert differences(RunFolder(tmp_path / "two"), RunFolder(tmp_path / "one")) == []
    assert run_dense("detection", banked, tmp_path / "both", stop_after=4) == "stopped after step 4"
    assert pair.call(run_dense, "detection", banked, tmp_path / "both") == [None, None]
    assert differences(RunFolder(tmp_path / "both"), RunFolder(tmp_path / "one")) == []
