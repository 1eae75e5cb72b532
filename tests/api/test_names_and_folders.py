"""us.distill with names in place of networks and folders in place of data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import understudy as us
from helpers import images
from helpers.command_line import done
from helpers.tiny import tiny_data, tiny_network, tiny_teacher
from understudy.report import read_results

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 8, "allow_weak_teacher": True, "quiet": True, "device": "cpu"}
Tree = Callable[..., Path]


@pytest.fixture
def write_tree(tmp_path: Path) -> Tree:
    return lambda counts: images.write_tree(tmp_path / "pets", counts)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_names_and_a_folder_are_a_run_like_the_command_lines(write_tree: Tree) -> None:
    root = write_tree({"cat": 10, "dog": 10})
    result = us.distill("cifar:resnet8", "cifar:resnet8", train=str(root), **QUICK)
    assert result.results.data.classes == ("cat", "dog")
    assert result.student(torch.rand(2, 3, 32, 32)).shape == (2, 2)
    assert "top-1" in done("evaluate", result.run.path)
    assert read_results(str(result.run.path)).rows[0].student.model == "cifar:resnet8"


def test_train_and_val_folders_beside_each_other_are_the_splits(write_tree: Tree) -> None:
    root = write_tree({"train/cat": 6, "train/dog": 6, "val/cat": 2, "val/dog": 3})
    result = us.distill(None, "cifar:resnet8", train=root / "train", val=root / "val", method="none", **QUICK)
    assert (result.results.data.num_train, result.results.data.num_val) == (12, 5)


def test_folders_that_do_not_lie_beside_each_other_are_refused(write_tree: Tree, tmp_path: Path) -> None:
    root = write_tree({"train/cat": 3, "train/dog": 3})
    with pytest.raises(us.UserError, match="must lie beside each other"):
        us.distill(None, "cifar:resnet8", train=root / "train", val=tmp_path, method="none", **QUICK)
    with pytest.raises(us.UserError, match="must be folders where train is one"):
        us.distill(None, "cifar:resnet8", train=root, val=tiny_data(), method="none", **QUICK)


def test_a_network_of_ones_own_learns_from_a_name_and_a_folder(write_tree: Tree) -> None:
    root = write_tree({"cat": 10, "dog": 10})
    student = tiny_network(4, num_classes=2)
    result = us.distill("cifar:resnet8", student, train=root, **QUICK)
    assert type(result.student) is nn.Sequential
    assert result.student.state_dict().keys() == student.state_dict().keys()


def test_a_student_by_name_learns_from_a_network_and_a_data_set() -> None:
    result = us.distill(tiny_teacher(), "cifar:resnet8", train=tiny_data(), **QUICK)
    again = us.load_student(result.run.path)
    some = tiny_data().tensors[0][:4]
    assert torch.allclose(again(some), result.student(some), atol=1e-6)


def test_a_name_normalises_images_in_0_to_1_and_none_that_are_normalised_already() -> None:
    pixels, labels = tiny_data().tensors
    in_unit = us.distill(None, "cifar:resnet8", train=tiny_data(), method="none", **QUICK)
    beyond = TensorDataset(pixels * 4 - 2, labels)
    normalised = us.distill(None, "cifar:resnet8", train=beyond, method="none", **QUICK)
    assert in_unit.student[0].mean is not None  # type: ignore[index]
    assert normalised.student[0].mean is None  # type: ignore[index]


@pytest.mark.parametrize("name", ["cifar:resnet9", "resnet18"])
def test_a_misspelt_name_is_refused_in_words(name: str) -> None:
    with pytest.raises(us.UserError, match="resnet"):
        us.distill(name, "cifar:resnet8", train="digits", **QUICK)
    with pytest.raises(us.UserError, match="resnet"):
        us.distill(None, name, train=tiny_data(), method="none", **QUICK)


def test_a_folder_that_is_not_there_is_refused_in_words() -> None:
    with pytest.raises(us.UserError, match="there is nothing at nowhere"):
        us.distill(None, "cifar:resnet8", train="nowhere", method="none", **QUICK)


def test_settings_of_a_folder_are_taken_and_its_name_is_not_said_twice() -> None:
    few = {"data": {"train_rows": "0:64", "val_rows": "64:96"}}
    result = us.distill(None, "cifar:resnet8", train="digits", method="none", settings=few, **QUICK)
    assert result.results.data.num_train == 64
    with pytest.raises(us.UserError, match=r"data\.root is what distill\(\) was given already"):
        us.distill(None, "cifar:resnet8", train="digits", method="none", settings={"data": {"root": "x"}}, **QUICK)
