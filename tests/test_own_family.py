"""A family of networks of one's own, in one file of an installed package: timm's registry makes it known by name."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch

import understudy as us
from helpers.command_line import FEW_DIGITS, TEACHER, documented, done, install, refused

SETTINGS = ("--data", "digits", "--epochs", "1", *FEW_DIGITS[:2], "student.kwargs={channels: [4, 8, 16]}")


@pytest.fixture(autouse=True, scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The family of the document, in a package that is installed beside understudy; timm's registry keeps it."""
    site = tmp_path_factory.mktemp("site")
    install(site, "own_plain", documented("Plain"), group="understudy.models")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(site)
        yield
    sys.modules.pop("own_plain", None)


def test_a_run_trains_it_by_name_and_its_student_loads_anywhere(tmp_path: Path) -> None:
    done("train", *SETTINGS, *TEACHER, "--student", "timm:plain3", "--method", "fitnet", "--out", tmp_path / "x")
    (row,) = json.loads((tmp_path / "x" / "results.json").read_text())["rows"]
    assert (row["name"], row["student"]["model"]) == ("fitnet", "timm:plain3")
    images = torch.rand(2, 3, 32, 32)
    ours = us.load_student(tmp_path / "x", prepared=False)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'x' / 'student'}", pretrained=True).eval()
    assert theirs(images).shape == (2, 10)
    assert torch.equal(ours(images), theirs(images))


def test_its_stages_are_those_that_it_says() -> None:
    importlib.import_module("own_plain")
    network = us.create_model("timm:plain3", num_classes=5, weights="none").module
    _, features = us.TappedModel(network, ["stages", "embedding"])(torch.rand(2, 3, 32, 32))
    shapes = {name: tuple(feature.shape) for name, feature in features.items()}
    assert shapes == {
        "stages.0": (2, 16, 16, 16), "stages.1": (2, 32, 8, 8), "stages.2": (2, 64, 4, 4), "embedding": (2, 64)
    }  # fmt: skip


def test_a_misspelt_name_is_refused_with_the_nearest() -> None:
    assert "did you mean plain3" in refused("check", *SETTINGS, "--student", "timm:plain33")
