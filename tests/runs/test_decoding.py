"""Who decodes a run's images where the recipe says auto: measured once, written down, and gone on with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.engine import tiny_recipe
from understudy.data.loaders import factory
from understudy.data.loaders.disk import StreamTrainLoader
from understudy.data.loaders.on_device import DeviceTrainLoader
from understudy.runs import decoding
from understudy.runs.components import Components, open_components
from understudy.runs.decoding import check_decoder, choose_decoder
from understudy.utils.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for split in ("train", "val"):
        for number in range(8):
            folder = root / split / ("day" if number % 2 else "night")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((70, 90, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
    return root


def opened(root: Path, decode: str) -> Components:
    data = {
        "root": str(root), "cache": "resized", "decode": decode, "image_size": 32, "workers": 0, "batch_size": 2,
        "train_rows": None, "val_rows": None,
    }  # fmt: skip
    recipe = tiny_recipe({"data": data, "rows": ["alone"]})
    return open_components(recipe, allow_code=False, say=lambda note: None)


@pytest.fixture
def with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU passes for one: the same code decodes and crops on it."""
    for module in (decoding, factory):
        monkeypatch.setattr(module, "device_problem", lambda *of: None)


@pytest.mark.usefixtures("with_a_gpu")
def test_the_faster_one_is_measured_once_and_gone_on_with(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "decoder.json"
    settled = choose_decoder(opened(root, "auto"), file, say=said.append)
    assert settled.recipe.data.decode in ("workers", "gpu")
    assert "images a second" in said[0]
    other = {"workers": "gpu", "gpu": "workers"}[settled.recipe.data.decode]
    file.write_text(file.read_text().replace(f'"decode":"{settled.recipe.data.decode}"', f'"decode":"{other}"'))
    again = choose_decoder(opened(root, "auto"), file, say=said.append)
    assert again.recipe.data.decode == other
    kinds = {"workers": StreamTrainLoader, "gpu": DeviceTrainLoader}
    for components in (settled, again):
        loader = components.train_loader(0)
        assert isinstance(loader, kinds[components.recipe.data.decode])
        assert next(iter(loader.epoch(1))).images.shape == (2, 3, 32, 32)
    file.write_text("{}")
    with pytest.raises(UserError, match=r"begin anew, with data\.decode: workers or gpu"):
        choose_decoder(opened(root, "auto"), file, say=said.append)


def test_without_cuda_auto_takes_workers_and_gpu_is_refused(root: Path, tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "decoder.json"
    settled = choose_decoder(opened(root, "auto"), file, say=said.append)
    assert settled.recipe.data.decode == "workers"
    assert said == ["decode   auto takes workers: that takes CUDA, and this run is on the cpu"]
    assert not file.exists()
    with pytest.raises(UserError, match="gpu cannot be: that takes CUDA"):
        check_decoder(opened(root, "gpu"))
    plain = opened(root, "workers")
    assert choose_decoder(plain, file, say=said.append) is plain
