"""JPEG trees, and the shared data where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from helpers.images import jpeg_bytes


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[..., Path]:
    """write_tree({"train/cat": 3, "train/dog": 2}, size=(16, 16)) writes so many JPEGs and returns the root."""

    def write(counts: Mapping[str, int], size: tuple[int, int] = (16, 16), name: str = "pets") -> Path:
        root = tmp_path / name
        for number, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True)
            for i in range(count):
                (root / folder / f"{i}.jpg").write_bytes(jpeg_bytes(100 * number + i, size))
        return root

    return write


@pytest.fixture
def shared_cifar() -> Path:
    """The small CIFAR-10 parquet folder."""
    return shared("cifar10-tiny")


@pytest.fixture
def shared_tiny_imagenet() -> Path:
    """The first 100 classes of Tiny-ImageNet as parquet files."""
    return shared("tiny-imagenet-100")


def shared(name: str) -> Path:
    beside = Path(__file__).parents[2] / "../shared/data"
    folder = Path(os.environ.get("UNDERSTUDY_DATA", beside)) / name
    if not folder.is_dir():
        pytest.skip(f"no {name}: set UNDERSTUDY_DATA to the folder that holds it")
    return folder
