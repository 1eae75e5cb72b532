"""The benchmark of a GPU at toy size, so that the minutes on a real one are not spent on its mistakes."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def ran(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    toy = ["--data", "digits", "--pair", "resnet8-resnet8", "--batch", "16", "--steps", "1", "--turns", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--workers", "0", *toy, *options])
    runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")


def test_a_group_alone_is_measured_printed_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(monkeypatch, "--minutes", "10", "--only", "live", "--json", str(tmp_path / "gpu.json"))
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    names = [row["name"] for row in record["rows"]]
    assert names[:2] == ["kd, as they come", "plain loop kd"]
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in names)


@pytest.mark.slow
def test_every_line_is_measured_printed_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("day", "night"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (90, 70), (20 * number, 90, 10)).save(tmp_path / "photos" / name / f"{number}.jpg")
    ran(monkeypatch, "--minutes", "10", "--json", str(tmp_path / "gpu.json"), "--photos", str(tmp_path / "photos"))
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [row["failed"] for row in record["rows"] if "failed" in row] == []
    names = [row["name"] for row in record["rows"]]
    assert names[:2] == ["kd, as they come", "plain loop kd"]
    wanted = {"bank kd+dot, as they come", "five rows, as they come", "5 students, grouped convolutions"}
    wanted |= {"kd, bfloat16 cast at each use, as they come", "photographs, understudy, decode: gpu"}
    wanted |= {"kd, RandAugment on the device, as they come", "32 px, a batch, all rows by all"}
    wanted |= {"kd, Mixup and CutMix in the step, as they come", "kd, nadam, as they come"}
    wanted |= {"kd+dot, float16, as they come"}
    wanted |= {"photographs, RandAugment, understudy, decode: gpu", "224 px, a batch, in groups"}
    assert wanted < set(names)
    assert all(row["ms_a_step"] > 0 and row["minutes"] > 0 for row in record["rows"])
    assert (record["left_out"], record["versions"]["torch"] is None) == ([], False)
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in names)


def test_what_does_not_fit_the_minutes_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(monkeypatch, "--minutes", "0", "--json", str(tmp_path / "gpu.json"))
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert record["rows"] == []
    assert record["left_out"][:3] == ["live", "live, DOT", "bank"]
    assert "left out, for time: five rows" in capsys.readouterr().out
