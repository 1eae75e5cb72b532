"""Methods of one's own named on the command line, and installed ones that are broken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.command_line import DIGITS, TEACHER, done, install, refused, understudy
from understudy.methods import METHODS
from understudy.runs.folder import RunFolder
from understudy.utils.errors import LACKING

MINE = '''\
import understudy as us


class Mine(us.Method, name="typed_mine"):
    """Mean squared error of logits."""

    class Config(us.MethodConfig):
        """Settings."""

        strength: float = 1.0

    needs = frozenset(["teacher_logits"])

    def forward(self, pairing):
        apart = pairing.student_logits - pairing.teacher_logits
        return {"mine": self.config.strength * apart.square().mean()}


class Nameless(us.Method):
    """Without a name."""
'''


@pytest.fixture(autouse=True)
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "front_typed.py"
    file.write_text(MINE)
    yield file
    METHODS.pop("typed_mine", None)
    sys.modules.pop("front_typed", None)
    LACKING.clear()


@pytest.mark.parametrize("named", ["front_typed.py:Mine", "front_typed:Mine"])
def test_a_method_is_trained_from_its_file_or_module(named: str) -> None:
    done("train", *TEACHER, *DIGITS, "--method", f"{named}+kd", "--allow-code", "--out", "run")
    assert [each["name"] for each in RunFolder(Path("run")).recipe()["method"]] == ["typed_mine", "kd"]
    METHODS.pop("typed_mine")
    assert "top-1" in done("evaluate", "run")  # which needs no method: the student alone is deployed


def test_rows_may_name_them_too() -> None:
    rows = ("--rows", "alone,front_typed.py:Mine", "--allow-code")
    assert "typed_mine" in done("compare", *TEACHER, *DIGITS, *rows, "--out", "run")


def test_code_is_not_run_unasked(own_file: Path) -> None:
    own_file.write_text("raise SystemExit(7)")
    said = refused("train", *TEACHER, *DIGITS, "--method", "front_typed.py:Mine")
    assert "is code that would be run; add --allow-code" in said


@pytest.mark.parametrize(
    ("named", "answer"),
    [
        ("front_typed.py:Mime", "did you mean Mine?"),
        ("front_typed.py:Nameless", "is no method with a name; write class"),
        ("nowhere.py:Mine", "there is no file nowhere.py"),
        ("no_such_module:Mine", "importing no_such_module failed: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_had_is_said_in_words(named: str, answer: str) -> None:
    assert answer in refused("train", *TEACHER, *DIGITS, "--allow-code", "--method", named)


def test_a_file_that_fails_is_said_in_words(own_file: Path) -> None:
    own_file.write_text("raise SystemExit(7)")
    said = refused("train", *TEACHER, *DIGITS, "--allow-code", "--method", "front_typed.py:Mine")
    assert "importing front_typed.py failed: SystemExit: 7" in said


def test_a_broken_package_warns_once_and_the_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "own_broken", "import nothing_of_this_name", group="understudy.methods")
    monkeypatch.syspath_prepend(tmp_path / "site")
    said = understudy("train", *TEACHER, *DIGITS, "--method", "kd", "--out", "run")
    assert said.code == 0
    assert said.err.count("own-broken") == 1
    asked = refused("train", *TEACHER, *DIGITS, "--method", "broken", "--out", "other")
    assert "'broken' is not there: package own-broken cannot be imported: ModuleNotFoundError" in asked
