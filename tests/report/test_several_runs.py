"""Several runs in one page: what is laid side by side, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers.command_line import done, refused
from helpers.run_writer import results_of, write_run
from understudy.report.figures.teachers import teachers_plot
from understudy.report.several import differing_settings, joint_cautions, joint_table, joint_verdict, read_runs
from understudy.utils.errors import UserError


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("several")
    first = write_run(root / "first")
    second = write_run(root / "second", rows=["alone", "dist"], accuracy={"dist": 0.97}, num_epochs=4)
    (second / "recipe.yaml").write_text("data: {name: digits}\nepochs: 4\nteacher: {model: cifar:resnet56}\n")
    return [first, second]


def test_every_row_of_every_run_has_a_line_with_its_own_numbers(two: list[Path]) -> None:
    runs = read_runs(two)
    table = joint_table(runs)

    names = [(line.cells[0].text, line.cells[1].text) for line in table.lines]
    assert names == [("first", "alone"), ("first", "kd"), ("first", "kd+dot"), ("second", "alone"), ("second", "dist")]
    expected = [row.summary.scores["top1"].mean for named in runs for row in named.results.rows]
    assert [line.cells[2].value for line in table.lines] == expected
    assert [line.kind for line in table.lines] == ["row"] * 4 + ["best"]


def test_the_best_of_all_is_held_against_the_next_run_with_an_interval(two: list[Path]) -> None:
    said = joint_verdict(read_runs(two))

    assert re.match(r"dist of second is the best of 2 runs: \d+\.\d %; the best of first is kd\+dot with", said)
    assert "95 % interval" in said


def test_what_they_differ_in_is_told(two: list[Path]) -> None:
    runs = read_runs(two)

    assert joint_cautions(runs) == ["Unlike epochs: first 8; second 4."]
    assert differing_settings(runs) == [("epochs", ["8", "4"]), ("teacher.model", ["–", "cifar:resnet56"])]


def test_unequal_augmentation_is_warned_of(two: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other")
    data = results_of(other)
    data["data"]["augmentation"] = "none"
    (other / "results.json").write_text(json.dumps(data))

    assert joint_cautions(read_runs([two[0], other])) == ["Unlike augmentation: first crop (pad 1); other none."]


def test_the_command_writes_one_page_and_prints_one_table(two: list[Path], tmp_path: Path) -> None:
    said = done("report", *two, "--out", tmp_path / "page.html")

    assert "dist of second is the best of 2 runs" in said
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {"r1", "r2", "r1-curves", "r2-curves", "r1-table", "r2-again"} <= set(ids)
    assert page.count("<script>") == 1


def changed(run: Path, **data: object) -> Path:
    results = results_of(run)
    results["data"] |= data
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_other_classes_are_refused_in_words(two: list[Path], tmp_path: Path) -> None:
    other = changed(write_run(tmp_path / "other"), classes=["zero", *"123456789"])

    with pytest.raises(UserError, match=r"first and other cannot be compared: other classes \(0\); give runs"):
        read_runs([two[0], other])


def test_other_images_are_refused_though_there_are_as_many(two: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other")
    kept = load_file(other / "predictions.safetensors")
    save_file({**kept, "val/labels": np.roll(kept["val/labels"], 1)}, other / "predictions.safetensors")

    with pytest.raises(UserError, match=r"other val images \(their labels differ\)"):
        read_runs([two[0], other])


def test_another_split_size_or_metric_is_refused(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="measured on its val split, the other on its test split"):
        read_runs([two[0], write_run(tmp_path / "tested", has_test=True)])
    with pytest.raises(UserError, match="450 val images against 451"):
        read_runs([two[0], changed(write_run(tmp_path / "more"), num_val=451)])


def test_one_run_twice_and_a_page_without_a_place_are_refused(two: list[Path]) -> None:
    with pytest.raises(UserError, match="one run is named twice"):
        read_runs([two[0], two[0]])
    assert "say where it goes: --out PAGE" in refused("report", *two)
    assert "--live follows one run" in refused("report", *two, "--live", "--out", "x.html")


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")])

    assert [named.name for named in runs] == ["a/run", "b/run"]


def test_the_page_of_one_run_goes_where_it_is_told_and_a_finished_run_is_not_waited_for(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")

    said = done("report", run, "--out", tmp_path / "mine.html", "--live")

    assert f"Page: {tmp_path / 'mine.html'}" in said
    assert "beats the student alone" in (tmp_path / "mine.html").read_text(encoding="utf-8")
    assert not (run / "report.html").exists()


def with_teacher(run: Path, model: str, parameters: int) -> Path:
    results = results_of(run)
    results["teacher"] |= {"model": model, "parameters": parameters}
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_students_of_larger_teachers_are_drawn_above_their_teachers_sizes(tmp_path: Path) -> None:
    small = with_teacher(write_run(tmp_path / "small"), "cifar:resnet20", 270_000)
    large = with_teacher(write_run(tmp_path / "large", accuracy={"kd": 0.85}), "cifar:resnet110", 1_730_000)
    runs = read_runs([large, small])  # drawn in the order of sizes, whatever the order of the runs

    plot = teachers_plot(runs)

    assert plot is not None
    by_size = plot.figure.axes[0]
    kd = next(
        line for line in by_size.lines if list(line.get_ydata()) == [score_of(small, "kd"), score_of(large, "kd")]
    )
    assert list(kd.get_xdata()) == [270_000, 1_730_000]
    told = str(plot.svg() and plot.hover())
    assert "from cifar:resnet110 (large)" in told
    assert "cifar:resnet20 itself" in told


def score_of(run: Path, row: str) -> float:
    results = results_of(run)
    return float(next(one for one in results["rows"] if one["name"] == row)["summary"]["scores"]["top1"]["mean"])


def test_runs_of_one_teacher_have_no_figure_of_teachers(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b")])

    assert teachers_plot(runs) is None


def test_students_that_differ_are_not_joined(tmp_path: Path) -> None:
    small = with_teacher(write_run(tmp_path / "small"), "cifar:resnet20", 270_000)
    large = with_teacher(write_run(tmp_path / "large"), "cifar:resnet110", 1_730_000)
    results = results_of(large)
    for row in results["rows"]:
        row["student"]["model"] = "cifar:resnet14"
    (large / "results.json").write_text(json.dumps(results))

    assert teachers_plot(read_runs([small, large])) is None
