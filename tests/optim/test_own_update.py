"""An update of one's own, in one file of an installed package: it is known by its name everywhere."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import understudy as us
from helpers.command_line import DIGITS, TEACHER, documented, done, install, refused, understudy
from helpers.tiny import tiny_data, tiny_network, tiny_teacher
from understudy.optim import UPDATES, Update, UpdateConfig
from understudy.utils.installed import shipped_names

TWO_STEPS = ("data.batch_size=128",)


@pytest.fixture(autouse=True)
def signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The update, in a package that is installed beside understudy, and forgotten afterwards."""
    install(tmp_path / "site", "own_signs", documented("Signs"), group="understudy.updates")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    yield
    UPDATES.pop("signs", None)
    sys.modules.pop("own_signs", None)


def test_a_comparison_has_rows_of_it() -> None:
    done("compare", *DIGITS, *TEACHER, "--rows", "kd,kd+signs,alone+signs", *TWO_STEPS, "--out", "x")
    rows = json.loads(Path("x/results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["kd", "kd+signs", "alone+signs"]
    assert [row["update"]["name"] for row in rows] == ["joint", "signs", "signs"]
    assert rows[1]["update"]["stride"] == 0.1
    weights = [us.load_student(f"x/students/{name}/seed0").state_dict() for name in ("kd", "kd+signs")]
    assert not all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_it_is_an_option_and_a_key_of_the_command_line() -> None:
    done("train", *DIGITS, *TEACHER, "--update", "signs", *TWO_STEPS, "update.stride=0.5", "--out", "x")
    (row,) = json.loads(Path("x/results.json").read_text())["rows"]
    assert (row["name"], row["update"]["stride"]) == ("kd+signs", 0.5)
    assert "update.strid unknown; did you mean stride?" in refused(
        "check", *DIGITS, *TEACHER, "update={name: signs, strid: 1}"
    )


def test_the_help_names_it() -> None:
    words = " ".join(done("train", "--help").replace("│", " ").split())
    assert "How losses become new weights: joint, deepkd, dot, dot_weights, signs." in words


def test_the_shipped_ones_are_read_off_their_files_without_an_import() -> None:
    ours = {name for name, update in UPDATES.items() if update.__module__.startswith("understudy.")}
    read = shipped_names("optim")
    assert (set(read), len(read)) == (ours, len(ours))


def test_what_rows_are_refused_names_it() -> None:
    assert "signs is no method but an update; write --update signs" in refused(
        "train", *DIGITS, *TEACHER, "--method", "kd+signs"
    )
    assert "names the updates dot and signs; one of them trains it" in refused(
        "compare", *DIGITS, *TEACHER, "--rows", "kd+dot+signs"
    )
    assert "update.stride is a setting of update signs, and this recipe's is joint" in refused(
        "compare", *DIGITS, *TEACHER, "--sweep", "update.stride=1,2"
    )


def test_it_moves_the_students_of_python_calls() -> None:
    importlib.import_module("own_signs")
    result = us.distill(
        tiny_teacher(), tiny_network(4), train=tiny_data(), update="signs", epochs=1, batch_size=16, quiet=True
    )
    assert [row.name for row in result.results.rows] == ["kd+signs"]


def test_another_update_of_its_name_is_refused() -> None:
    importlib.import_module("own_signs")
    with pytest.raises(ValueError, match="there is an update 'signs' already: own_signs"):

        class Other(Update, name="signs"):
            """Another one."""

            class Config(UpdateConfig):
                """Its settings."""


def test_an_update_without_settings_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="update 'plain' has no settings of its own; define a class Config in Plain"):

        class Plain(us.Joint, name="plain"):
            """Joint under another name, whose settings would be Joint's."""


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "site" / "own_signs.py").write_text("import nothing_of_this_name")
    said = understudy("methods")
    assert said.code == 0
    assert said.err.count("the update 'signs' is left out: package own-signs cannot be imported: Module") == 1
