"""Whole runs of a student with two heads: stopped and gone on with, loaded again, and compared with other rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.displays import Eventful, press_ctrl_c
from helpers.engine import read_metrics, reproducible_files, run_recipe, tiny_recipe
from understudy import Recipe
from understudy.models import load_student
from understudy.runs.folder import RunFolder
from understudy.utils.interrupted import Interrupted

# All of DeiT's own recipe at once, on 80 digits: views in a row, mixing, erasing, averages, drop path, layer decay.
DEIT: dict[str, Any] = {
    "data": {
        "repeats": 3,
        "mix": {"mixup": 0.8, "cutmix": 1.0},
        "augment": {"name": "crop_flip", "pad": 1, "rand_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.25},
        "workers": 0,
    },
    "student": {
        "model": "understudy:deit_conv_tiny",
        "kwargs": {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2},
        "weights": "none",
    },
    "update": {"optimizer": "adamw", "lr": 1e-3, "layer_decay": 0.8, "decay_norm_and_bias": False, "clip_norm": 1},
    "method": {"name": "deit"},
    "rows": ["alone", "deit+dot", {"name": "token", "method": {"name": "dist", "on": "distilled"}}],
    "ema": 0.9,
    "seeds": [0],
}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return tiny_recipe(DEIT)


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_recipe(recipe, tmp_path_factory.mktemp("straight") / "run")


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_and_ends_the_same_bit_for_bit(
    recipe: Recipe, finished: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run_recipe(recipe, tmp_path / "run", display=Eventful(1, 2, press_ctrl_c))
    again = reproducible_files(run_recipe(recipe, tmp_path / "run"))
    expected = reproducible_files(finished)
    assert [name for name in sorted({*again, *expected}) if again.get(name) != expected.get(name)] == []


@pytest.mark.slow
def test_the_students_that_are_kept_predict_by_the_mean_of_their_heads(finished: RunFolder) -> None:
    rows = {line["row"] for line in read_metrics(finished) if "row" in line}
    assert {"alone", "deit+dot", "token"} <= rows
    student = load_student(next((finished.path / "students" / "deit+dot").iterdir()))
    images = torch.rand(2, 3, 8, 8)
    heads = student[1].eval()
    with torch.no_grad():
        mean = student(images)
        heads.set_distilled_training()
        heads.training = True
        apart = student(images)
    assert torch.allclose((apart["logits"] + apart["distilled"]) / 2, mean, atol=1e-6)


CO_ADVISE: dict[str, Any] = {
    "data": {"mix": {"mixup": 0.8, "cutmix": 1.0}},
    "teacher": {
        "also": {"distilled2": {"model": "understudy:rednet26", "weights": "none"}},
        "allow_weak": True,
    },
    "student": {
        "model": "understudy:co_advise_tiny",
        "kwargs": {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2, "drop_path_rate": 0.2},
        "weights": "none",
    },
    "update": {"name": "dot", "optimizer": "adamw", "lr": 1e-3},
    "method": {"name": "co_advise"},
    "precision": "bfloat16",
    "rows": [],
    "seeds": [0],
}


@pytest.mark.slow
def test_co_advise_is_stopped_goes_on_and_is_deployed_as_the_mean_of_three_heads(tmp_path: Path) -> None:
    recipe = tiny_recipe(CO_ADVISE)
    straight = run_recipe(recipe, tmp_path / "straight" / "run")
    with pytest.raises(Interrupted):
        run_recipe(recipe, tmp_path / "run", display=Eventful(1, 2, press_ctrl_c))
    again, expected = (reproducible_files(run) for run in (run_recipe(recipe, tmp_path / "run"), straight))
    assert [name for name in sorted({*again, *expected}) if again.get(name) != expected.get(name)] == []

    student, images = load_student(straight.student), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        mean = student(images)
        student[1].set_distilled_training()
        student[1].training = True
        apart = student(images)
    assert apart.keys() == {"logits", "distilled", "distilled2"}
    assert torch.allclose(torch.stack([*apart.values()]).mean(dim=0), mean, atol=1e-6)
