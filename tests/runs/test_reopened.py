"""A finished run's student, built again from the run folder alone."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.command_line import DIGITS, TEACHER, done, refused


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose method deploys more than the student: SimKD's projector and the teacher's head."""
    folder = tmp_path_factory.mktemp("simkd") / "run"
    done("train", *DIGITS, *TEACHER, "--method", "simkd", "--out", folder)
    return folder


def test_a_student_that_its_method_has_added_to_scores_as_it_did_in_the_run(run: Path) -> None:
    last = json.loads((run / "results.json").read_text())["rows"][0]["seeds"][0]["last"]["scores"]
    scores = f"top-1 {last['top1']:.2f} %   top-5 {last['top5']:.2f} %   balanced {last['balanced_accuracy']:.2f} %"
    assert f"{scores}   loss {last['loss']:.4f}" in done("evaluate", run)


def test_results_that_deploy_another_runs_row_are_refused(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    results = json.loads((copy / "results.json").read_text())
    results["deployed"]["row"] = "dist"
    (copy / "results.json").write_text(json.dumps(results))
    assert "deploys no row of" in refused("evaluate", copy)
