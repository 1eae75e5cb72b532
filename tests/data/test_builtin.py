"""The digits that come with the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from understudy.data.sources.base import TensorSource
from understudy.data.sources.builtin import read_digits

ROOT = Path(__file__).parents[2]


def test_the_digits_are_scikit_learns_to_the_last_pixel() -> None:
    theirs = pytest.importorskip("sklearn.datasets").load_digits()
    found = read_digits()
    source = found.splits["train"]
    assert isinstance(source, TensorSource)
    grey = torch.from_numpy(theirs.images / 16 * 255).round().to(torch.uint8)
    assert torch.equal(source.images, grey[:, None].expand(-1, 3, -1, -1))
    assert source.labels.tolist() == theirs.target.tolist()
    assert list(found.classes) == [str(name) for name in theirs.target_names]


def test_the_package_ships_them_with_their_licence() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    package = ROOT / "src/understudy"
    shipped = {
        file.relative_to(package).as_posix()
        for pattern in settings["tool"]["setuptools"]["package-data"]["understudy"]
        for file in package.glob(pattern)
    }
    assert {"data/digits.npz", "data/digits.md", "py.typed"} <= shipped
    assert "CC BY" in (note := (package / "data/digits.md").read_text(encoding="utf-8")) or "Attribution 4.0" in note
