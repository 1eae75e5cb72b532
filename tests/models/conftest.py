"""Folders that more than one test module reads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # where own_time.py is, whichever folder pytest is asked for

from hf_folders import write_resnet, write_vit


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A vision transformer of transformers' for 7 classes and 16x16 images."""
    return write_vit(tmp_path / "vit")


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    """A residual network of transformers' for 7 classes and any image size."""
    return write_resnet(tmp_path / "resnet")
