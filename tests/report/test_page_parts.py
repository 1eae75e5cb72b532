"""What stands on a page beside its figures: the verdict, what to beware of, best cells, costs, settings, images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.run_writer import results_of, results_with, write_disagreements, write_run
from understudy.report import Results, read_results, read_run, write_report
from understudy.report.cautions import cautions
from understudy.report.class_numbers import class_table
from understudy.report.figures import Lacking, Plot, all_figures
from understudy.report.figures.differences import difference_plot
from understudy.report.figures.style import looks, new_figure
from understudy.report.images import disagreements, unlearnt
from understudy.report.page import _with_code
from understudy.report.page_table import cost_table, page_table
from understudy.report.row_settings import row_settings
from understudy.report.run_data import RunData
from understudy.report.run_page import run_page
from understudy.report.verdict import verdict

BOTH = {"alone": 90.0, "kd": 92.0}
CLEAR, CHANCE = {("kd", "alone"): (2.0, 0.5, 3.5)}, {("kd", "alone"): (2.0, -0.5, 4.5)}


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (
            results_with(BOTH, CLEAR),
            "kd beats the student alone by 2.0 points of top-1 (92.0 % against 90.0 %), more than chance explains.",
        ),
        (
            results_with(BOTH, CHANCE),
            "No row is surely better than the student alone: kd is ahead by 2.0 points of top-1 (92.0 % against "
            "90.0 %), which may be chance.",
        ),
        (
            results_with(BOTH, CLEAR, seeds=1),
            "kd beats the student alone by 2.0 points of top-1 (92.0 % against 90.0 %), more than the choice of images "
            "explains (one seed).",
        ),
        (
            results_with({**BOTH, "dist": 91.0}, {**CLEAR, ("kd", "dist"): (1.0, -1.0, 3.0)}),
            "kd beats the student alone by 2.0 points of top-1 (92.0 % against 90.0 %), more than chance explains; "
            "dist cannot be told from it.",
        ),
        (
            results_with({"alone": 93.0, "kd": 92.0}, {("kd", "alone"): (-1.0, -2.0, -0.1)}),
            "Distilling did not help here: no row is ahead of the student alone, which reaches 93.0 %.",
        ),
        (
            results_with({"kd": 92.0, "dist": 91.0}),
            "kd has the best top-1, 92.0 %; without a row 'alone' nothing tells what distilling gave.",
        ),
        (
            results_with(BOTH),
            "kd is ahead of the student alone by 2.0 points of top-1 (92.0 % against 90.0 %); no interval tells "
            "whether that is chance.",
        ),
    ],
)
def test_the_first_sentence_says_who_won_by_how_much_and_whether_it_may_be_chance(results: Results, said: str) -> None:
    assert verdict(results) == said


def test_what_a_reader_should_beware_of_is_said() -> None:
    assert cautions(results_with(BOTH, CLEAR)) == []
    one_seed = cautions(results_with(BOTH, CLEAR, seeds=1))
    assert [line for line in one_seed if line.startswith("One seed")]
    weak = cautions(results_with(BOTH, CLEAR, teacher=88.0))
    assert weak == [
        "The teacher (88.0 %) is no better than the student alone (90.0 %): there is little to learn from it."
    ]
    on_test = results_with(BOTH, CLEAR).model_copy(update={"select_on": "test"})
    assert "chosen on the very test images" in cautions(on_test)[0]
    nothing = cautions(results_with({"alone": 0.04, "kd": 0.1}).model_copy(update={"task": "segmentation"}))
    assert nothing[0].startswith("No row has learnt enough to be compared: the best reaches 0.1 % of top-1.")
    little = results_with({"alone": 0.4, "kd": 1.1})
    assert not [line for line in cautions(little.model_copy(update={"task": "detection"})) if "has learnt" in line]
    assert ["guessing" in line for line in cautions(little)] == [True, True]  # of classes: said of each row
    diverged = cautions(results_with({"alone": 90.0, "kd": float("nan")}))
    assert diverged[0].startswith("kd came to no number")


def test_a_row_that_only_guesses_is_told_whatever_it_keeps_of_the_teacher() -> None:
    said = cautions(results_with({"alone": 90.0, "kd": 12.0}, {("kd", "alone"): (-78.0, -80.0, -70.0)}))
    assert said == [
        "kd is no better than guessing among 10 classes: 12.0 % right (guesses: 10.0 %, on 450 images up to 12.8 %). "
        "Train longer (--epochs), and look at --lr and at the labels."
    ]
    assert cautions(results_with({"alone": 90.0, "kd": 13.0}, {("kd", "alone"): (-77.0, -80.0, -70.0)})) == []


def test_one_row_has_one_sentence_and_its_bar_is_of_images_where_there_is_one_seed(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", rows=("kd",), seeds=(0,)))
    page = run_page(run)
    assert "the run has no row" in page.verdict
    assert page.headline == ""
    reading = next(one.reading for one in page.figures if one.name == "accuracy")
    assert "95 % intervals over images, with one seed" in reading


@pytest.mark.parametrize(
    ("model", "command", "python"),
    [
        ("cifar:resnet8", "IMAGES... ", "load_student('R')"),
        ("net.py:Small", "IMAGES... --allow-code", "load_student('R', allow_code=True)"),
        ("Small", "IMAGES... --module FILE.py:CLASS --allow-code", "load_student('R', module=Small(...))"),
    ],
)
def test_what_to_do_with_a_student_of_own_code_says_what_runs_that_code(
    full_run: Path, model: str, command: str, python: str
) -> None:
    run = read_run(full_run)
    own = {"student": run.results.rows[0].student.model_copy(update={"model": model})}
    rows = [row.model_copy(update=own) for row in run.results.rows]
    run = replace(run, folder=Path("R"), results=run.results.model_copy(update={"rows": tuple(rows)}))
    said = "\n".join(run_page(run).next_commands)
    assert f"understudy predict R {command}" in said
    assert python in said


def test_what_is_lacking_sets_commands_as_code_and_escapes_the_rest(full_run: Path) -> None:
    page = write_report(full_run, full_run / "code.html").read_text()
    assert "<code>--probes momenta,losses,projector</code>" in page
    assert _with_code("`a` <b>") == "<code>a</code> &lt;b&gt;"


def test_leads_over_other_rows_are_not_said_to_be_over_the_student_alone() -> None:
    rows, apart = {"alone": 90.0, "kd": 92.0, "kd+dot": 91.0}, {("kd", "alone"): (2.0, 0.5, 3.5)}
    lone = difference_plot(RunData(Path("R"), results_with(rows, apart)))
    both = difference_plot(RunData(Path("R"), results_with(rows, {**apart, ("kd+dot", "kd"): (-1.0, -2.0, -0.5)})))
    assert "over images and 3 seeds" in lone.reading
    assert "or from the row after 'over'" in both.reading
    assert "'over'" not in lone.reading
    assert "ahead of alone or the row named" in both.figure.axes[0].get_xlabel()


def test_rows_that_differ_in_more_than_their_method_are_told() -> None:
    results = results_with(BOTH, CLEAR)
    rows = [
        row.model_copy(update={"update": {"name": "joint", "lr": lr}})
        for row, lr in zip(results.rows, (0.1, 0.2), strict=True)
    ]

    assert cautions(results.model_copy(update={"rows": tuple(rows)})) == [
        "Rows differ in more than their method: lr is 0.1 or 0.2."
    ]


def test_only_the_best_of_each_column_is_marked(full_run: Path) -> None:
    run = read_run(full_run)
    found = page_table(run.results, run.timing)
    keys = [column.key for column in found.table.columns]
    marked = {keys[column]: found.table.lines[line].cells[0].text for line, column in found.best}

    means = {row.name: row.summary for row in run.results.rows}
    assert marked["top1"] == max(means, key=lambda name: means[name].scores["top1"].mean)
    assert marked["agreement"] == max(means, key=lambda name: means[name].agreement.mean)
    assert marked["kl_to_teacher"] == min(means, key=lambda name: means[name].kl_to_teacher.mean)
    assert "row" not in marked


def test_costs_that_all_rows_share_stand_once_in_a_table_of_networks(full_run: Path) -> None:
    run = read_run(full_run)

    assert "parameters" not in {column.key for column in page_table(run.results, run.timing).table.columns}
    costs = cost_table(run.results, run.timing).table
    cells = {column.key: [line.cells[i].text for line in costs.lines] for i, column in enumerate(costs.columns)}
    assert cells["network"] == ["cifar:resnet20", "cifar:resnet8"]
    assert cells["megabytes"] == ["1.09", "0.0482"]
    assert cells["milliseconds"] == ["0.82", "0.087"]


def test_rows_of_unlike_students_keep_their_costs_in_the_table(tmp_path: Path) -> None:
    write_run(tmp_path)
    data = results_of(tmp_path)
    data["rows"][1]["student"]["parameters"] = 24_000
    (tmp_path / "results.json").write_text(json.dumps(data))
    run = read_run(tmp_path)

    assert "parameters" in {column.key for column in page_table(run.results, run.timing).table.columns}
    assert len(cost_table(run.results, run.timing).table.lines) == 3


def test_settings_that_rows_share_are_said_once(full_run: Path) -> None:
    found = row_settings(read_results(full_run))

    assert dict(found.alike)["update.momentum"] == "0.9"
    assert dict(found.alike)["student"] == "cifar:resnet8"
    assert found.columns == ("methods", "task weight", "update.name")
    assert dict(found.lines)["kd+dot"] == ("kd: weight 0.9", "0.1", "dot")
    assert dict(found.lines)["alone"][0] == "none: the labels alone"


def test_a_method_keeps_its_colour_whatever_else_is_there_and_its_dot_row_is_dashed() -> None:
    first, second = looks(["alone", "kd", "kd+dot", "dist"]), looks(["dist", "projector", "kd"])

    assert first["kd"].color == second["kd"].color == first["kd+dot"].color
    assert first["dist"] == second["dist"]
    assert (first["kd"].dash, first["kd+dot"].dash) == ("solid", "dashed")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that kept pictures."""
    run = write_run(tmp_path_factory.mktemp("shown"), classes=["<script>x", *"123456789"])
    write_disagreements(run)
    return run


def test_images_are_shown_with_their_names_and_both_answers(shown: Path) -> None:
    run = read_run(shown)
    assert run.predictions is not None
    assert run.predictions.teacher is not None
    found = disagreements(run, "kd")

    assert [one.file for one in found] == [f"val/<b>/{i}.jpg" for i in range(4)]
    for i, one in enumerate(found):
        assert one.label == run.results.data.class_name(run.predictions.labels[i])
        assert one.teacher == run.results.data.class_name(run.predictions.teacher[i])
        assert one.teacher_is_right == (one.label == one.teacher)
        assert one.source.startswith("data:image/png;base64,")
        assert one.student_confidence is not None
        assert 0 < one.student_confidence <= 100
        assert one.seeds.endswith("of 3 seeds")
    page = write_report(shown).read_text(encoding="utf-8")
    assert page.count("<img ") == 4
    assert "val/&lt;b&gt;/0.jpg" in page
    assert "&lt;script&gt;x" in page
    assert "<script>x" not in page


def test_images_that_only_the_teacher_gets_right_are_named_by_their_files(shown: Path) -> None:
    found = unlearnt(read_run(shown), "kd")

    assert found is not None
    assert found.images
    assert list(found.names) == [f"val/{i}.jpg" for i in found.images[:60]]


@pytest.mark.parametrize("content", [b"<svg onload='alert(1)'>", b"\x89PNG\r\n\x1a\n" + bytes(70_000), None, 7])
def test_what_is_no_small_picture_is_not_embedded(tmp_path: Path, content: object) -> None:
    import pyarrow
    from pyarrow import parquet

    write_run(tmp_path)
    columns = {"split": ["val"], "index": [3], "file": ["a"], "image": [content]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "disagreements.parquet")

    assert disagreements(read_run(tmp_path), "kd") == []
    assert "<img" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_file_that_is_no_table_costs_its_pictures_alone(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "disagreements.parquet").write_bytes(b"no table")
    (tmp_path / "predictions.parquet").write_bytes(b"no table")
    run = read_run(tmp_path)

    assert disagreements(run, "kd") == []
    found = unlearnt(run, "kd")
    assert found is not None
    assert found.names == ()


def test_a_figure_that_lacks_its_data_says_why_in_its_place(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_run(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    kept = load_file(tmp_path / "predictions.safetensors")
    save_file(
        {key: found for key, found in kept.items() if key.startswith("val/")}, tmp_path / "predictions.safetensors"
    )

    lacking = {one.name: one.why for one in all_figures(read_run(tmp_path)) if isinstance(one, Lacking)}

    assert {"curves", "calibration"} <= set(lacking)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert page.index("kept no confidences") > page.index('id="confusion"')


def test_every_figure_of_a_whole_run_tells_something_under_the_pointer(full_run: Path) -> None:
    plots = [plot for plot in all_figures(read_run(full_run)) if isinstance(plot, Plot)]
    assert len(plots) >= 8
    for plot in plots:
        plot.svg()
        panels = plot.hover()
        assert panels, plot.name
        width, height = plot.figure.get_size_inches() * 72
        for panel in panels:
            left, top, right, bottom = panel["box"]
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            places = [point[:2] for series in panel["series"] for point in series["points"]]
            inside = [left - 3 <= x <= right + 3 and top - 3 <= y <= bottom + 3 for x, y in places]
            assert sum(inside) > len(inside) / 3, plot.name  # curves are cut off below


def test_what_a_curve_tells_is_what_was_measured(full_run: Path) -> None:
    run = read_run(full_run)
    (curves,) = (one for one in all_figures(run) if isinstance(one, Plot) and one.name == "curves")
    curves.svg()
    accuracy = curves.hover()[2]
    told = {series["name"]: {point[2]: float(point[3]) for point in series["points"]} for series in accuracy["series"]}

    at_8 = [one.val["top1"] for one in run.epochs if one.row == "kd" and one.epoch == 8 and one.val]
    assert told["kd"]["8"] == pytest.approx(sum(at_8) / 3, abs=0.01)


def test_every_class_has_a_line_of_numbers(full_run: Path) -> None:
    run = read_run(full_run)
    found = class_table(run, "kd")
    assert found is not None
    assert run.predictions is not None
    assert run.predictions.teacher is not None

    lines = {line.cells[0].text: line.cells for line in found.table.lines}
    assert list(lines) == list(run.results.data.classes)
    of_3 = run.predictions.labels == 3
    assert lines["3"][1].value == of_3.sum()
    assert lines["3"][2].value == pytest.approx(100 * (run.predictions.teacher[of_3] == 3).mean())
    student = 100 * (run.predictions.rows["kd"][:, of_3] == 3).mean()
    assert lines["3"][4].value == pytest.approx(student)
    assert lines["3"][5].value == pytest.approx(student - 100 * (run.predictions.rows["alone"][:, of_3] == 3).mean())


def test_cells_of_a_table_tell_their_value_by_their_names() -> None:
    figure = new_figure(2)
    axes = figure.add_subplot()
    mesh = axes.pcolormesh([[0.25, float("nan")], [0.5, 1.0]])
    axes.set_xticks([0.5, 1.5], ["a", "b"])
    axes.set_yticks([0.5, 1.5], ["c", "d"])
    figure.colorbar(mesh)
    plot = Plot("cells", "Cells", "To be read.", figure)
    plot.svg()

    (panel,) = plot.hover()
    assert [point[3] for point in panel["series"][0]["points"]] == ["c with a: 0.25", "d with a: 0.5", "d with b: 1"]
    first, above = panel["series"][0]["points"][:2]
    assert first[0] == above[0]
    assert first[1] > above[1]  # counted from above
