"""What networks start from is said before training, and neither random weights nor a missing teacher are a surprise."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from huggingface_hub import constants
from rich.console import Console

from helpers.command_line import FEW_DIGITS, TEACHER, done, refused
from understudy.runs.console import Display

SMALL = "timm:resnet10t"
WITHOUT = ("--data", "digits", "--student", "cifar:resnet8", "--epochs", "1", *FEW_DIGITS)


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached, and nothing of it is in a cache."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("command", ["train", "compare", "check"])
@pytest.mark.parametrize("asked", [("--train-teacher", "1"), ("teacher.train_epochs=1",)])
def test_a_teacher_to_be_trained_counts_on_pretrained_weights(command: str, asked: tuple[str, ...]) -> None:
    message = refused(command, *WITHOUT, "--teacher", SMALL, *asked)
    assert f"{SMALL}: pretrained weights cannot be had: 127.0.0.1 cannot be reached" in message
    option = "--teacher-weights " if asked[0].startswith("--") else "teacher.weights="
    assert f"Set {option}FILE, or {option}none for random ones" in message


@pytest.mark.usefixtures("no_hub")
def test_random_weights_that_are_said_are_taken_and_shown_before_training_and_after() -> None:
    words = (*WITHOUT, "--teacher", SMALL, "--train-teacher", "1", "--teacher-weights", "none", "--allow-weak-teacher")
    start = f"start    teacher {SMALL}: random weights, to be trained here first for 1 epoch"
    assert start in done("check", *words)
    said = done("train", *words, "--out", "x")
    assert said.index(start) < said.index("start    student cifar:resnet8: random weights")
    after = f"Started from: teacher {SMALL} random weights, then trained here for 1 epoch; student cifar:resnet8 random"
    assert after in said
    page = Path("x/report.html").read_text(encoding="utf-8")
    assert page.index("<li>Started from: teacher") < page.index("<h2>All rows</h2>")  # among what to know first


@pytest.mark.usefixtures("no_hub")
def test_a_network_that_nobody_has_published_needs_no_word_of_it() -> None:
    said = done("check", *WITHOUT, "--teacher", "cifar:resnet8", "--train-teacher", "1")
    assert "start    teacher cifar:resnet8: random weights, to be trained here first for 1 epoch" in said


@pytest.mark.usefixtures("no_hub")
def test_weights_that_are_given_are_kept_to(tmp_path: Path) -> None:
    done("train", *WITHOUT, "--method", "alone", "--out", "begun")
    assert "start    student cifar:resnet8: begun" in done(
        "check", *WITHOUT, "--method", "alone", "--student-weights", "begun"
    )


@pytest.mark.parametrize("command", ["train", "compare", "check"])
def test_a_teacher_that_was_forgotten_is_asked_for_with_both_ways_out(command: str) -> None:
    message = refused(command, *WITHOUT)
    assert "whom should the student learn from? There is no teacher: give --teacher MODEL" in message
    assert "or --method alone (for compare: --rows alone)" in message


@pytest.mark.parametrize(
    "words", [("train", "--method", "kd"), ("check", "--method", "crd+kd"), ("compare", "--rows", "alone,kd+dot")]
)
def test_a_method_that_was_asked_for_without_a_teacher_asks_for_one(words: tuple[str, ...]) -> None:
    message = refused(*words, *WITHOUT)
    assert "there is no teacher to learn from; give --teacher MODEL" in message
    assert "--method alone" in message


@pytest.mark.parametrize(
    "words", [("--method", "alone"), ("--method", "none"), ("method=none",), ("--method", "tfkd"), TEACHER]
)
def test_who_says_how_the_student_learns_is_not_asked(words: tuple[str, ...]) -> None:
    assert "cifar:resnet8" in done("check", *WITHOUT, *words)


def test_a_recipe_of_ones_own_says_all_there_is_to_say(tmp_path: Path) -> None:
    file = tmp_path / "alone.yaml"
    file.write_text("data: {root: digits}\nstudent: {model: cifar:resnet8}\n")
    assert "alone" in done("check", file, *FEW_DIGITS)


def test_a_warning_and_what_is_random_have_colour_where_colour_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(text: str, *, style: str | None = None) -> str:
        display, stream = Display(), io.StringIO()
        display.console = Console(file=stream, force_terminal=True, width=100)
        display.say(text, style=style)
        return stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert shown("warning  mind this").startswith("\x1b[1;33m")
    assert "\x1b[1;33mrandom weights" in shown("start    random weights", style="yellow")
    assert "\x1b[" not in shown("data     digits")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "33m" not in shown("warning  mind this")
