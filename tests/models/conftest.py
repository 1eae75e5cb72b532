"""Folders that more than one test module reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.hf_folders import write_resnet, write_vit


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A vision transformer of transformers' for 7 classes and 16x16 images."""
    return write_vit(tmp_path / "vit")


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    """A residual network of transformers' for 7 classes and any image size."""
    return write_resnet(tmp_path / "resnet")
