"""The comparison table and its four renderings."""

import csv
import io
import json

import pytest
from rich.console import Console

from helpers.run_writer import results_of, results_with, write_run
from understudy.report import Results, Speed, Timing, comparison_table, read_run, render, rich_table
from understudy.utils.errors import UserError


@pytest.fixture(scope="module")
def table(full_run):
    run = read_run(full_run)
    return comparison_table(run.results, run.timing)


def keys(table):
    return [column.key for column in table.columns]


def shown(table, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(table, width=width))
    return console.export_text()


def test_table_holds_what_was_measured_of_every_row_and_the_teacher(table):
    assert keys(table) == [
        "row", "top1", "best_top1", "agreement", "task_loss", "kl_to_teacher", "parameters", "macs",
        "images_per_second",
    ]  # fmt: skip
    assert [line.cells[0].text for line in table.lines] == ["teacher", "alone", "kd", "kd+dot"]
    assert [line.kind for line in table.lines] == ["teacher", "row", "row", "best"]
    assert table.lines[0].cells[-3].text == "272 k"
    assert table.lines[1].cells[-1].text == "11,000"


def test_table_says_on_what_the_best_epoch_was_chosen(table):
    assert any("best epoch was chosen on the same 450 validation images (held out by seed 0)" in n for n in table.notes)


def test_intervals_over_few_seeds_are_said_to_be_narrow():
    rows, apart = {"alone": 90.0, "kd": 92.0}, {("kd", "alone"): (2.0, 0.5, 3.5)}
    said = "3 seeds show little of how far seeds spread, so these are on the narrow side (--seeds 5)"
    assert any(said in note for note in comparison_table(results_with(rows, apart)).notes)
    for unlike in (results_with(rows), results_with(rows, apart, seeds=1), results_with(rows, apart, seeds=5)):
        assert not any("narrow" in note for note in comparison_table(unlike).notes)


def test_table_has_a_test_column_where_the_test_split_was_read(tmp_path):
    run = read_run(write_run(tmp_path, has_test=True))

    table = comparison_table(run.results)

    assert keys(table)[:3] == ["row", "test_top1", "top1"]
    assert "450 test images" in table.notes[0]


def test_images_that_are_test_and_validation_at_once_have_one_column():
    results = results_with({"alone": 91.8, "kd": 93.0})
    rows = [
        row.model_copy(update={"summary": row.summary.model_copy(update={"test": row.summary.scores})})
        for row in results.rows
    ]
    apart = results.model_copy(update={"rows": tuple(rows)})
    at_once = apart.model_copy(update={"data": results.data.model_copy(update={"val_origin": "test split"})})
    columns = [[column.key for column in comparison_table(found).columns] for found in (apart, at_once)]
    assert columns[1] == [key for key in columns[0] if key != "top1"]
    assert "test_top1" in columns[1]


def test_table_without_a_teacher_or_speeds_has_no_columns_for_them():
    table = comparison_table(results_with({"kd": 93.0}, teacher=None))

    assert keys(table) == ["row", "top1", "parameters"]
    assert [line.kind for line in table.lines] == ["row"]


def test_table_of_a_diverged_row_shows_a_dash(full_run):
    data = results_of(full_run)
    data["rows"][1]["summary"]["scores"]["top1"] = {"mean": None, "std": None, "n": 3}

    table = comparison_table(Results.model_validate(data))

    assert table.lines[2].cells[1].text == "–"


def test_csv_holds_full_numbers_with_the_deviation_apart(table, full_run):
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))

    expected = json.loads((full_run / "results.json").read_text())["rows"][2]["summary"]["scores"]["top1"]
    assert rows[3]["row"] == "kd+dot"
    assert float(rows[3]["top1"]) == expected["mean"]
    assert float(rows[3]["top1_std"]) == expected["std"]
    assert rows[0]["top1_std"] == ""


def test_markdown_has_as_many_cells_in_every_line_and_sets_the_best_row_off(table):
    lines = [line for line in render(table, "md").splitlines() if line.startswith("|")]

    assert {line.count("|") for line in lines} == {len(table.columns) + 1}
    assert lines[-1].startswith("| **kd+dot** |")


NASTY = r"a|b_c & 50% $x$ {y} \z <i> #1 [q] ~^"


def test_markdown_of_a_nasty_name_stays_one_cell():
    text = render(comparison_table(results_with({NASTY: 90.0}, teacher=None)), "md")

    line = next(line for line in text.splitlines() if "50%" in line)
    assert r"a\|b\_c" in line
    assert r"\<i\>" in line
    assert line.replace(r"\|", "").count("|") == 4  # bars around the row, its top-1 and its parameters


def test_latex_of_a_nasty_name_has_no_bare_special_character():
    text = render(comparison_table(results_with({NASTY: 90.0}, teacher=None)), "latex")

    assert r"a\textbar{}b\_c \& 50\% \$x\$ \{y\} \textbackslash{}z \textless{}i\textgreater{} \#1 {[}q{]}" in text
    assert text.count("&") - text.count(r"\&") == 2 * 3  # two separators in each heading line and in the row


def test_csv_of_a_name_with_comma_quote_and_newline_reads_back_whole():
    name = 'a,"b"\nc'

    rows = list(csv.DictReader(io.StringIO(render(comparison_table(results_with({name: 90.0}, teacher=None)), "csv"))))

    assert rows[0]["row"] == name


def test_terminal_shows_markup_in_a_name_as_it_is():
    assert "[bold]kd[/bold]" in shown(comparison_table(results_with({"[bold]kd[/bold]": 90.0})), 100)


def test_a_narrow_terminal_leaves_out_sizes_and_speeds_and_cuts_nothing(table):
    wide, narrow = shown(table, 140), shown(table, 80)

    assert "images/s" in wide
    assert "MACs" not in narrow
    assert "KL to teacher" in narrow
    assert "…" not in narrow
    assert all(len(line) <= 80 for line in narrow.splitlines())


def test_an_unknown_format_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean latex"):
        render(comparison_table(results_with({"kd": 93.0})), "latx")


def test_speeds_have_two_digits_and_the_range_of_their_measurements():
    timing = Timing(
        (Speed(model="cifar:resnet8", role="student", images_per_second=1_671.0, lowest=614.0, highest=2_620.0),)
    )
    text = render(comparison_table(results_with({"alone": 90.0}), timing), "md")
    assert "1,700 (610–2,600)" in text
