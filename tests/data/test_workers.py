"""Processes that are started anew (Windows, macOS, Python 3.14): scripts without a guard, data sets that cannot go."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from understudy.data import DataConfig, dataset_splits
from understudy.data.loaders.workers import num_workers_for

HEAD = """
import multiprocessing
multiprocessing.set_start_method("spawn", force=True)
import torch, understudy as us
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

def run(**settings):
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    train = ImageFolder("pets", v2.Compose(steps))
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    us.distill(None, net, train=train, method="none", epochs=1, settings={"data": {"workers": 1}}, **settings)
"""


def script(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(HEAD + text)
    command = [sys.executable, "script.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=dict(os.environ))


@pytest.mark.slow
def test_a_script_without_a_guard_trains_without_workers_and_leaves_one_run(
    write_tree: Callable[..., Path], tmp_path: Path
) -> None:
    write_tree({"cat": 6, "dog": 6})
    done = script("run()\n", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "script.py has no 'if __name__ == \"__main__\":' around its calls" in " ".join(done.stdout.split())
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["distill-1"]


@pytest.mark.slow
def test_a_call_outside_the_guard_is_named_and_leaves_one_run(write_tree: Callable[..., Path], tmp_path: Path) -> None:
    write_tree({"cat": 6, "dog": 6})
    done = script("run()\nif __name__ == '__main__':\n    print('done')\n", tmp_path)
    assert done.returncode != 0
    assert "runs this script again" in done.stderr  # of the worker
    assert "has no 'if __name__ == \"__main__\":' around its calls, else for want of memory" in done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["distill-1"]


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None, raising=False)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("spawned")
def test_a_data_set_that_cannot_be_sent_is_loaded_without_workers_and_that_is_said(
    write_tree: Callable[..., Path],
) -> None:
    root = write_tree({"cat": 4, "dog": 4})
    config = DataConfig(root="x", workers=2)
    to_float: list[Any] = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    for transform, count in ((v2.Compose(to_float), 2), (v2.Compose([*to_float, lambda image: image / 2]), 0)):
        data = dataset_splits(ImageFolder(root, transform), config=config)
        assert num_workers_for(config, data.train) == count
        said = [note for note in data.notes if "loaded without worker processes" in note]
        assert len(said) == (count == 0)


def test_forked_workers_take_any_data_set() -> None:
    if multiprocessing.get_start_method() != "fork":
        pytest.skip("processes are not forked here")
    assert num_workers_for(DataConfig(root="x", workers=3), lambda: 0) == 3
