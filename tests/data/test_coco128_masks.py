"""A segmenter on real photographs with 133 classes: COCO128's semantic masks."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from helpers.engine import read_metrics, run_recipe
from understudy import Recipe
from understudy.data import open_data
from understudy.data.config import DataConfig

BESIDE = Path(__file__).parents[3] / "shared/data"
SMALL = {"model": "deeplabv3:mobilenetv3_small_050", "weights": "none"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packed = Path(os.environ.get("UNDERSTUDY_DATA", BESIDE)) / "coco128/coco128.zip"
    if not packed.is_file():
        pytest.skip("no coco128: set UNDERSTUDY_DATA to the folder that holds it")
    folder = tmp_path_factory.mktemp("coco")
    with zipfile.ZipFile(packed) as archive:
        wanted = [name for name in archive.namelist() if "/images/" in name or "/semantic/" in name]
        archive.extractall(folder, wanted)
    return folder / "coco128"


@pytest.mark.slow
def test_names_pairs_and_ignored_pixels_are_read(photographs: Path) -> None:
    data = open_data(DataConfig(root=str(photographs)))
    assert (len(data.classes), data.classes[0], len(data.train), len(data.val)) == (133, "person", 100, 100)
    assert "train: 28 images without a mask (left out)" in data.notes


@pytest.mark.slow
def test_a_segmenter_learns_a_few_photographs(photographs: Path, tmp_path: Path) -> None:
    recipe = Recipe.read(
        {
            "data": {
                "root": str(photographs),
                "train_rows": "0:8",
                "val_rows": "8:12",
                "shorter_side": 96,
                "image_size": 96,
                "batch_size": 4,
                "workers": 0,
                "augment": "none",
            },
            "student": SMALL,
            "update": {"optimizer": "adamw", "lr": 0.003},
            "steps": 40,
            "epochs": 2,
            "threads": 1,
        },
        what="the test's recipe",
    )
    run = run_recipe(recipe, tmp_path / "run")
    first, *_, last = [line["task_loss"] for line in read_metrics(run) if line["kind"] == "train"]
    assert last < 0.7 * first
