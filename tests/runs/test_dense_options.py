"""What a step can be told, from recipes of masks and of boxes: precision, passes, averages, compilation, DOT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.dense_recipes import TASKS, DenseTask, run_dense
from understudy import load_student
from understudy.report import read_results

ROWS: dict[DenseTask, list[Any]] = {"segmentation": ["kd"], "detection": ["dkd"]}


def losses(task: DenseTask, out: Path, **over: Any) -> list[dict[str, float]]:
    """Of each step's line in the log: task loss, distill loss and terms."""
    assert run_dense(task, {"rows": ROWS[task], "epochs": 1, **over}, out) is None
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{"task": line["task"], **line["terms"]} for line in lines if line["kind"] == "train"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[DenseTask, list[dict[str, float]]]:
    return {task: losses(task, tmp_path_factory.mktemp(task) / "run") for task in TASKS}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
class TestOptions:
    def test_bfloat16_learns_what_float32_does_within_its_digits(
        self, task: DenseTask, plain: dict[DenseTask, list[dict[str, float]]], tmp_path: Path
    ) -> None:
        found = losses(task, tmp_path / "run", precision="bfloat16")
        assert found != plain[task]
        assert [line["task"] for line in found] == pytest.approx([line["task"] for line in plain[task]], rel=0.05)

    def test_several_passes_take_the_steps_of_one(
        self, task: DenseTask, plain: dict[DenseTask, list[dict[str, float]]], tmp_path: Path
    ) -> None:
        found = losses(task, tmp_path / "run", accumulate=2)
        for line, expected in zip(found, plain[task], strict=True):
            assert line == pytest.approx(expected, rel=1e-4, abs=1e-5)

    def test_an_average_of_the_weights_is_deployed(self, task: DenseTask, tmp_path: Path) -> None:
        losses(task, tmp_path / "averaged", ema=0.5)
        losses(task, tmp_path / "raw")
        averaged, raw = (load_student(tmp_path / name, allow_code=True).state_dict() for name in ("averaged", "raw"))
        moved = [name for name, value in raw.items() if not value.equal(averaged[name])]
        assert moved
        scores = [read_results(tmp_path / name).rows[0].seeds[0].selected.scores for name in ("averaged", "raw")]
        assert scores[0].keys() == scores[1].keys()

    def test_compiled_networks_take_the_steps_of_plain_ones(self, task: DenseTask, tmp_path: Path) -> None:
        # Batch norms: torch 2.14.1 writes C++ that does not compile for group norms in channels_last, in training.
        model = {"model": "helpers.row_wise_networks:segmenter_with_batch_norms"}
        over = {"student": model, "teacher": model} if task == "segmentation" else {}
        found, expected = (losses(task, tmp_path / str(how), compile=how, **over) for how in (True, False))
        for line, other in zip(found, expected, strict=True):
            assert line == pytest.approx(other, rel=1e-3, abs=1e-4)
