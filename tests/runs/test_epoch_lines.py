"""The lines by which a person sees whether it learns."""

from __future__ import annotations

import json
import re

import pytest

from helpers.engine import read_metrics, run_recipe, tiny_recipe
from helpers.screens import lines_on, screen
from understudy import Classification
from understudy.runs import console
from understudy.runs.console import Display
from understudy.runs.epoch_lines import EpochLine, EpochTable, best_so_far
from understudy.runs.folder import RunFolder

TOP1 = Classification.metrics[0]
LONG = "projector_ensemble+logit_std+kd+dot of a long sweep"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A run of two rows under a teacher that it trains, and what it printed without a terminal."""
    out = tmp_path_factory.mktemp("told") / "run"
    settings = {"seeds": [0], "teacher": {"train_epochs": 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "PLAIN_LINE_SECONDS", -9.0)
        patch.setattr(console, "LINES_A_SECOND", 1e9)
        said: list[str] = []
        display = Display()
        patch.setattr(display.console, "print", lambda text: said.append(str(text)))
        run = run_recipe(tiny_recipe(settings), out, display=display)
    return run, "\n".join(said)


def test_every_epoch_says_its_losses_and_accuracy_of_every_row(told: tuple[RunFolder, str]) -> None:
    run, said = told
    for line in [line for line in read_metrics(run) if line["kind"] == "epoch"]:
        shown = next(
            text for text in said.splitlines() if re.match(rf" +{line['epoch']}/2  {re.escape(line['row'])} ", text)
        )
        assert f"{line['val']['top1']:.1f} %" in shown
        assert f"{line['train']['task_loss']:.2f} " in shown
        assert f"{line['lr']:.3g} " in shown
        assert re.search(r"\d:\d\d:\d\d$", shown)


def test_the_teachers_own_training_is_scored_after_every_epoch(told: tuple[RunFolder, str]) -> None:
    run, said = told
    scores = [line["val"]["top1"] for line in read_metrics(run) if line["row"] == "teacher" and line["kind"] == "epoch"]
    assert len(scores) == 2
    results = json.loads(run.results_file.read_text())
    assert results["teacher"]["val"]["scores"]["top1"] == pytest.approx(scores[-1])
    assert re.search(r"1/2  teacher .* % ", said)


def test_the_epoch_lines_hold_what_was_distilled_and_where_it_stood(told: tuple[RunFolder, str]) -> None:
    lines = [line for line in read_metrics(told[0]) if line["kind"] == "epoch" and line["row"] != "teacher"]
    assert [line["step"] for line in lines] == [3, 3, 6, 6]
    assert {line["row"] for line in lines if "distill" in line["train"]} == {"kd+dot"}


def test_how_long_epochs_took_is_kept_where_repetitions_may_differ(told: tuple[RunFolder, str]) -> None:
    timing = [json.loads(line) for line in told[0].timing_file.read_text().splitlines()]
    epochs = [(line["stretch"], line["epoch"]) for line in timing if line["kind"] == "epoch"]
    assert epochs == [("teacher", 1), ("teacher", 2), ("seed0", 1), ("seed0", 2)]


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("rows", [("alone", "kd"), ("alone", LONG)])
def test_no_line_is_wider_than_the_terminal(width: int, rows: tuple[str, ...]) -> None:
    table = EpochTable(rows, epochs=300, metric=TOP1, width=width)
    line = EpochLine(row=rows[-1], epoch=299, lr=1.23e-05, task_loss=12.345, distill=123.4, score=99.9, best=100.0)
    shown = [str(table.heading()), str(table.line(line, left="12:34:56"))]
    assert max(map(len, shown)) <= width
    assert "99.9 %" in shown[1]
    assert "299/300" in shown[1]


def test_a_wide_terminal_shows_every_column_and_the_whole_name() -> None:
    table = EpochTable(["alone", LONG], epochs=3, metric=TOP1, width=120)
    assert str(table.heading()).split() == [
        "epoch",
        "row",
        "lr",
        "task",
        "loss",
        "distill",
        "val",
        "top-1",
        "best",
        "left",
    ]
    assert LONG in str(table.line(EpochLine(row=LONG, epoch=1), left="?"))


def test_a_row_that_diverged_and_a_new_best_stand_out() -> None:
    table = EpochTable(["kd"], epochs=3, metric=TOP1)
    assert "red" in str(table.line(EpochLine(row="kd", epoch=1, task_loss=float("nan")), left="?").style)
    assert "bold" in str(table.line(EpochLine(row="kd", epoch=2, score=50.0, best=50.0), left="?").style)
    assert str(table.line(EpochLine(row="kd", epoch=3, score=40.0, best=50.0), left="?").style) == ""


def test_the_best_so_far_passes_over_what_is_no_number() -> None:
    records = [{"val": {"top1": score}} for score in (10.0, float("nan"), 30.0, 20.0)]
    assert best_so_far(records, TOP1) == 30.0
    assert best_so_far([{"train": {}}], TOP1) is None


def test_epochs_of_a_moment_do_not_flood_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    display, table = Display(), EpochTable(["kd"], epochs=500, metric=TOP1)
    with display.stretch(500, images_per_step=1):
        for epoch in range(1, 501):
            line = table.line(EpochLine(row="kd", epoch=epoch), left=display.left_after(epoch))
            display.block([line], always=epoch == 500)
    first, *between, last = capsys.readouterr().out.splitlines()
    assert (first.split()[0], last.split()[0]) == ("1/500", "500/500")
    assert len(between) < 3


@pytest.mark.parametrize(
    ("text", "warns"),
    [
        ("warning  the learning rate was chosen for others", True),
        ("2 images cannot be read: a, b (skipped; `data.on_bad_image: stop` to refuse)", True),
        ("teacher  cifar:resnet8   random weights (no pretrained ones could be had)", True),
        ("data     digits: 10 classes", False),
    ],
)
def test_what_warns_is_in_colour_unless_no_color_is_set(
    text: str, warns: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    Display().say(text)
    assert ("33m" in capsys.readouterr().out) is warns
    monkeypatch.setenv("NO_COLOR", "1")
    Display().say(text)
    assert "33m" not in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_on_a_terminal_break_between_words(columns: int) -> None:
    text = "kd is behind alone by 2.3 points, but the 95 % interval, -10.2 to 4.7, spans zero " * 3
    with screen(columns) as out:
        display = Display()
        display.say(text)
    assert display.width == columns
    assert max(map(len, lines_on(out))) <= columns
    assert " ".join(lines_on(out)).split() == text.split()


def test_a_line_with_a_label_goes_on_below_what_it_heads() -> None:
    with screen(40) as out:
        Display().say("  kd+dot         kd (Hinton 2014), weight 0.9; task 0.1; dot; settings of this recipe")
    first, *further = lines_on(out)
    assert first.startswith("  kd+dot         kd (Hinton")
    assert {len(line) - len(line.lstrip()) for line in further} == {17}


def test_what_was_not_measured_is_a_dash() -> None:
    line = EpochTable(["kd"], epochs=3, metric=TOP1).line(EpochLine(row="kd", epoch=1), left="?")
    assert str(line).split() == ["1/3", "kd", "–", "–", "–", "–", "–", "?"]
