"""What a person sees at 80 and at 120 columns: no word is torn, and what was left out is said."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from helpers.run_writer import write_run
from helpers.screens import lines_on, screen
from understudy.cli.app import main
from understudy.cli.commands import next_commands

LONG = "projector_ensemble+logit_std+kd+dot"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a long name of a row, all columns, and long sentences."""
    return write_run(tmp_path_factory.mktemp("terminal") / "mine", rows=["alone", "kd", "kd+dot", LONG])


def seen(columns: int, *words: str | Path) -> list[str]:
    """The lines of a command on a terminal of that width."""
    with screen(columns) as out, pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code
    return lines_on(out)


def words_of(lines: list[str]) -> list[str]:
    return " ".join(lines).split()


@pytest.mark.parametrize("columns", [80, 120])
def test_the_outcome_is_broken_between_words_alone(run: Path, columns: int) -> None:
    lines = [line for line in seen(columns, "report", run) if not line.startswith("Page: ")]
    assert max(map(len, lines)) <= columns
    sentences = lines[next(i for i, line in enumerate(lines) if line.startswith("Top-1 after")) :]
    told = re.sub(r"Left out at .*? has them\)\. ", "", " ".join(words_of(sentences)))
    assert set(told.split()) <= set(words_of(seen(1000, "report", run)))


def test_80_columns_say_what_they_leave_out_and_200_leave_nothing_out(run: Path) -> None:
    text = " ".join(words_of(seen(80, "report", run)))
    left_out = re.search(r"Left out at 80 columns: (.*?) \(--format md has them\)", text)
    assert left_out
    assert {"parameters", "MACs", "images/s"} <= set(left_out[1].split(", "))
    assert "…" not in " ".join(seen(80, "report", run)[:2])  # the heading
    assert "Left out" not in " ".join(seen(200, "report", run))


def test_speed_and_size_are_said_once(run: Path) -> None:
    text = " ".join(words_of(seen(120, "report", run)))
    assert text.count("as fast on this machine") == 1
    assert text.count("of the teacher's parameters") == 1


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_of_methods_is_broken_between_words_and_hangs(columns: int) -> None:
    lines, whole = seen(columns, "methods"), seen(1000, "methods")
    assert max(map(len, lines)) <= columns
    assert words_of(lines) == words_of(whole)
    assert len({len(line) - len(line.lstrip()) for line in lines}) == 2  # names, and what goes on below


def test_a_long_refusal_is_broken_between_words() -> None:
    err = io.StringIO()
    err.isatty = lambda: True  # type: ignore[method-assign]
    words = ["train", "--student", "cifar:resnet8", "--data", "digits", "--tracker", "tensorbord", "--epochs", "3"]
    with screen(80), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([*words, "schedule.warmup_epochs=50", "update.lr=-1", f"select_on={LONG}"])
    assert ended.value.code == 2
    lines = lines_on(err)
    assert len(lines) > 4
    assert max(map(len, lines)) <= 80
    assert "'tensorbord' is unknown; did you mean tensorboard?" in " ".join(words_of(lines))


@pytest.mark.parametrize(("task", "data"), [("classification", "YOUR/IMAGES"), ("segmentation", "YOUR/MASKS")])
def test_what_to_do_next_fits_80_columns_and_can_be_pasted(task: str, data: str) -> None:
    lines = next_commands(task).splitlines()
    assert max(map(len, lines)) <= 80
    command = "\n".join(lines[:3]).removeprefix("Next: ").replace("\\\n", " ")
    assert command.split()[-4:] == ["--seeds", "3", "--data", data]


def test_what_to_do_next_with_boxes_takes_batches_that_fit_large_images() -> None:
    lines = next_commands("detection").splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["--seeds", "3", "--data", "YOUR/BOXES", "data.batch_size=4", "update.lr=0.01"]
