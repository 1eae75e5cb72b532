"""Runs of masks and of boxes that are killed again and again end as those left in peace, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.dense_recipes import DenseTask, dense_recipe
from helpers.faulty_runs import Killing, Server

# With dropout and batch norms, an average, passes and bfloat16, of which each has a state to come back to.
SEGMENTER = {
    "model": "deeplabv3:resnet10t",
    "kwargs": {"width": 8, "channels": [8, 8, 16, 16], "stem_width": 8},
    "weights": "none",
}
CASES: list[tuple[DenseTask, str, dict[str, Any]]] = [
    ("segmentation", "dist", {"ema": 0.9, "student": SEGMENTER, "teacher": {**SEGMENTER, "allow_weak": True}}),
    ("segmentation", "kd+dot", {"student": SEGMENTER, "teacher": {**SEGMENTER, "train_epochs": 1}}),
    ("detection", "dkd", {"accumulate": 2, "precision": "bfloat16"}),
    ("detection", "dist+dot", {"data": {"aspect_groups": True}}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "row", "over"), CASES, ids=[f"{task} {row}" for task, row, _ in CASES])
def test_a_run_that_is_killed_three_times_ends_the_same_bit_for_bit(
    task: DenseTask, row: str, over: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    settings = {**over, "rows": ["alone", row], "checkpoint_steps": 1, "update": {"lr": 0.01}}
    recipe.write_text(yaml.safe_dump(dense_recipe(task, settings).as_dict()))
    killing = Killing.of(server, recipe, tmp_path / "in peace/run")
    assert killing.survives(tmp_path, kills=3, seed=f"{task} {row}") == (3, 0)
