"""What a run says while it runs."""

import json
from pathlib import Path

import pytest

from understudy.runs import console
from understudy.runs.console import Display
from understudy.trackers.jsonl import MetricsFile


def test_metrics_are_one_json_object_a_line(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write({"step": 1})
    metrics.write({"step": 2})
    assert [json.loads(line) for line in metrics.file.read_text().splitlines()] == [{"step": 1}, {"step": 2}]


def test_metrics_are_cut_back_to_where_a_resumed_run_stands(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write({"step": 1})
    size = metrics.size
    metrics.write({"step": 2})
    metrics.cut_back(size)
    metrics.write({"step": 3})
    assert [json.loads(line)["step"] for line in metrics.file.read_text().splitlines()] == [1, 3]


def test_reopened_metrics_are_continued(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").write({"step": 1})
    assert MetricsFile(tmp_path / "metrics.jsonl").size > 0


def test_lines_go_to_stdout_or_stderr_or_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    Display().say("one")
    Display(to_stderr=True).say("two")
    Display(quiet=True).say("three")
    assert capsys.readouterr() == ("one\n", "two\n")


def test_long_lines_and_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold] " + "a/very/long/path" * 20
    Display().say(text)
    assert capsys.readouterr().out == text + "\n"


def test_without_a_terminal_progress_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PLAIN_LINE_SECONDS", -1.0)
    display = Display()
    with display.stretch(10, images_per_step=64):
        display.update(1, "training")
        display.update(5, "training")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "  training   10 %   0 img/s   ? left"
    assert second.startswith("  training   50 %   ")
    assert second.endswith(" left")


def test_progress_outside_a_stretch_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Display().update(1, "training")
    assert capsys.readouterr().out == ""
