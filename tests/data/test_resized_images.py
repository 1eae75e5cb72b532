"""Training images that are scaled down once and kept as JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from helpers.engine import CPU, reproducible_files, run_recipe, tiny_recipe
from understudy.data import DataConfig, open_data, train_loader
from understudy.data import resized as module
from understudy.data.resized import resized_source
from understudy.utils.errors import UserError


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of smooth pictures, wide, tall and small ones, and a broken one."""
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 6), ("val", 2)):
        for number in range(2 * count):
            folder = root / split / ("day" if number % 2 else "night")
            folder.mkdir(parents=True, exist_ok=True)
            height, width = [(120, 160), (200, 90), (40, 70)][number % 3]
            waves = np.sin(np.linspace(0, 3 + number, height))[:, None] + np.cos(np.linspace(0, 4, width))[None]
            picture = np.stack([waves * 60 + 127, waves * 30 + 90, 200 - waves * 40], axis=-1)
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    (root / "train" / "day" / "broken.png").write_bytes(b"\x89PNG no picture")
    return root


def config(root: Path, **settings: object) -> DataConfig:
    return DataConfig.read({"root": str(root), "batch_size": 4, "workers": 0, **settings}, what="data")


def test_they_cover_the_input_with_room_for_the_crop_and_are_nearly_the_pixels(photographs: Path) -> None:
    source = open_data(config(photographs)).train
    kept = resized_source(source, 64)
    assert len(kept) == len(source)
    assert [kept.name(i) for i in range(len(kept))] == [source.name(i) for i in range(len(source))]
    for i in range(len(source)):
        if "broken" in source.name(i):
            with pytest.raises(UserError, match="broken"):
                kept.image(i)
            continue
        image, small = source.image(i), kept.image(i)
        shorter = min(image.shape[-2:])
        assert min(small.shape[-2:]) == min(shorter, round(64 * 1.143))
        wanted = transforms.resize(image, list(small.shape[-2:]), antialias=True)
        assert (small.float() - wanted.float()).abs().mean() < 2.5


def test_batches_are_the_same_whatever_the_workers_and_on_every_day(photographs: Path) -> None:
    source = open_data(config(photographs)).train
    found = []
    for workers in (0, 2):
        kept = resized_source(source, 64)
        loader = train_loader(kept, config(photographs, workers=workers), seed=3, image_size=64, device=CPU)
        found.append([batch.images for batch in loader.epoch(2)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][0].shape == (4, 3, 64, 64)


def test_a_run_trains_on_them_says_so_and_evaluates_the_images_as_they_are(photographs: Path, tmp_path: Path) -> None:
    settings = {
        "data": {
            "root": str(photographs), "batch_size": 4, "workers": 0, "image_size": 32, "cache": "resized",
            "train_rows": None, "val_rows": None,
        },
        "epochs": 1,
        "seeds": [0],
    }  # fmt: skip
    runs = [run_recipe(tiny_recipe(settings), tmp_path / place / "run") for place in ("a", "b")]
    assert reproducible_files(runs[0]) == reproducible_files(runs[1])
    assert runs[0].results()["data"]["num_val"] == 4


def test_what_would_not_fit_the_memory_is_refused_with_the_way_out(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory_bytes", lambda: 1000)
    with pytest.raises(UserError, match=r"more than half of the .* data\.cache: false reads the images from disk"):
        resized_source(open_data(config(photographs)).train, 64)


def test_a_stream_cannot_keep_any(photographs: Path) -> None:
    with pytest.raises(UserError, match="cannot go with cache: resized"):
        config(photographs, streaming=True, cache="resized")
