"""The tables of a page: the comparison with what is best in each column, and what each network costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from understudy.report.figures.style import looks
from understudy.report.formatting import compact
from understudy.report.run_data import Timing
from understudy.report.table import Cell, Column, Line, Table, comparison_table
from understudy.results.schema import ModelFacts, Results
from understudy.utils.text import two_digits

__all__ = ["PageTable", "cost_table", "joint_page_table", "page_table", "plain_table"]

_COSTS = ("parameters", "macs", "images_per_second")
_MB = 4e-6  # of a parameter in float32


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table, the cells that are best in their column, and the colour of each line."""

    table: Table
    best: frozenset[tuple[int, int]]  # line, column
    colors: tuple[str, ...] = ()  # of the lines; "" of one without
    dashed: tuple[bool, ...] = ()


def page_table(results: Results, timing: Timing) -> PageTable:
    """The comparison, without costs where all rows have the same: `cost_table` has these once."""
    table = comparison_table(results, timing)
    if len({row.student for row in results.rows}) == 1:
        table = table.without(_COSTS)
    return plain_table(table, [row.name for row in results.rows], best=_best(table))


def plain_table(table: Table, rows: Sequence[str], *, best: frozenset[tuple[int, int]] = frozenset()) -> PageTable:
    """A table whose lines begin with the names of rows, in their colours."""
    style = looks(rows)
    found = [style.get(line.cells[0].text) if line.kind != "teacher" else None for line in table.lines]
    colors = tuple("" if look is None else look.color for look in found)
    return PageTable(table, best, colors, tuple(look is not None and look.dash != "solid" for look in found))


def joint_page_table(table: Table, names: Sequence[str]) -> PageTable:
    """A table whose lines are the rows of these names, in this order: best cells and colours as on other pages."""
    style = looks(names)
    colors = tuple(style[name].color for name in names)
    return PageTable(table, _best(table), colors, tuple(style[name].dash != "solid" for name in names))


def _best(table: Table) -> frozenset[tuple[int, int]]:
    """Of every column that has a better end: the students' best, where they differ."""
    found = set()
    for place, column in enumerate(table.columns):
        if not column.better:
            continue
        values = {
            number: float(value)
            for number, line in enumerate(table.lines)
            if line.kind != "teacher" and isinstance(value := line.cells[place].value, int | float)
            if math.isfinite(value)
        }
        if len(set(values.values())) > 1:
            best = (max if column.better == "high" else min)(values.values())
            found |= {(number, place) for number, value in values.items() if value == best}
    return frozenset(found)


def cost_table(results: Results, timing: Timing) -> PageTable:
    """A line for each network: size, operations and speed."""
    models: list[tuple[str, ModelFacts]] = [("teacher", results.teacher)] if results.teacher else []
    students = list({row.student: None for row in results.rows})
    models += [("student", student) for student in students]
    columns = (
        Column("role", ""),
        Column("network", "network"),
        Column("parameters", "parameters"),
        Column("megabytes", "MB", "in float32"),
        Column("macs", "MACs", "an image"),
        Column("images_per_second", "images/s", "this machine"),
        Column("milliseconds", "ms an image", "in batches"),
    )
    lines = tuple(Line(_cost_cells(role, model, timing), "row") for role, model in models)
    table = Table(columns, lines)
    empty = [c.key for i, c in enumerate(columns) if all(line.cells[i].value is None for line in lines)]
    return PageTable(table.without(empty), frozenset(), tuple("" for _ in lines), tuple(False for _ in lines))


def _cost_cells(role: str, model: ModelFacts, timing: Timing) -> tuple[Cell, ...]:
    size, speed = model.parameters, timing.measured(model.model, "teacher" if role == "teacher" else "student")
    rate = speed.images_per_second if speed is not None and speed.images_per_second else None
    spread = ""
    if speed is not None and speed.lowest and speed.highest and two_digits(speed.lowest) != two_digits(speed.highest):
        spread = f" ({two_digits(speed.lowest)}–{two_digits(speed.highest)})"
    return (
        Cell(role, role),
        Cell(model.model, model.model),
        Cell(compact(size), size),
        Cell() if size is None else Cell(f"{size * _MB:.3g}", size * _MB),
        Cell(compact(model.macs), model.macs),
        Cell() if rate is None else Cell(two_digits(rate) + spread, rate),
        Cell() if rate is None else Cell(f"{1000 / rate:.2g}", 1000 / rate),
    )
