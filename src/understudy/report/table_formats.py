"""A table for the terminal, Markdown, CSV and LaTeX. Whatever a name holds, each form stays well-formed."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable

import rich.table
from rich import box
from rich.text import Text

from understudy.report.formatting import shortened
from understudy.report.table import Table
from understudy.utils.errors import UserError, unknown_name

__all__ = ["FORMATS", "left_out", "render", "rich_table"]

FEWEST_NAME_COLUMNS = 16  # of a row's name, before columns are left out for it
_STYLES = {"teacher": "dim", "best": "bold", "row": ""}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's \\\\ a bare bracket would be read as a length
    "]": "{]}",
    "±": r"$\pm$",
    "–": "--",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


def render(table: Table, form: str) -> str:
    """The table as text.

    Args:
        table: what to write.
        form: "md", "csv" (full precision; the deviation in a column of its own) or "latex" (booktabs).

    Raises:
        UserError: another form.
    """
    if form not in FORMATS:
        raise UserError(f"table format {form!r} is {unknown_name(form, FORMATS)}")
    return FORMATS[form](table)


def rich_table(table: Table, *, width: int | None = None) -> rich.table.Table:
    """The table for `rich.print`.

    Args:
        table: what to show.
        width: columns of the terminal; sizes and speeds are left out, from the right, until the table fits, then the
            other columns but for the row and its first score. None keeps all.
    """
    table, most = (table, None) if width is None else _fitted(table, width)
    out = rich.table.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, column in enumerate(table.columns):
        heading = f"{column.title}\n{column.note}" if column.note else column.title
        # Text, not str: a name such as "[bold]" is a name, not markup
        out.add_column(Text(heading), justify="right" if i else "left", no_wrap=True)
    for line in table.lines:
        texts = [_one_line(cell.text) for cell in line.cells]
        texts[0] = texts[0] if most is None else shortened(texts[0], most)
        out.add_row(*map(Text, texts), style=_STYLES[line.kind])
    return out


def left_out(table: Table, width: int) -> list[str]:
    """Titles of the columns for which a terminal of that width has no room, in the order of the table."""
    kept = {column.key for column in _fitted(table, width)[0].columns}
    return [column.title for column in table.columns if column.key not in kept]


def _fitted(table: Table, width: int) -> tuple[Table, int]:
    """The columns of the table that fit, and how long the name of a row may be."""
    optional = [column.key for column in reversed(table.columns) if column.is_optional]
    optional += [column.key for column in reversed(table.columns[2:]) if not column.is_optional]
    longest = max((len(line.cells[0].text) for line in table.lines), default=0)
    while optional and _width(table) > width + max(0, longest - FEWEST_NAME_COLUMNS):
        table = table.without([optional.pop(0)])
    return table, longest - max(0, _width(table) - width)


def _markdown(table: Table) -> str:
    def written(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    head = [_escape_markdown(" ".join([column.title, column.note]).strip()) for column in table.columns]
    lines = [written(head), written([":---", *["---:"] * (len(head) - 1)])]
    for line in table.lines:
        texts = [_escape_markdown(cell.text) for cell in line.cells]
        lines.append(written([f"**{text}**" for text in texts] if line.kind == "best" else texts))
    notes = [_escape_markdown(note) for note in table.notes]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in notes)


def _csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    has_std = [any(line.cells[i].std is not None for line in table.lines) for i in range(len(table.columns))]
    head: list[str] = []
    for column, has in zip(table.columns, has_std, strict=True):
        head += [column.key, f"{column.key}_std"] if has else [column.key]
    writer.writerow(head)
    for line in table.lines:
        values: list[str] = []
        for cell, has in zip(line.cells, has_std, strict=True):
            values += [_plain(cell.value), _plain(cell.std)] if has else [_plain(cell.value)]
        writer.writerow(values)
    return buffer.getvalue()


def _latex(table: Table) -> str:
    def written(cells: list[str]) -> str:
        return " & ".join(cells) + r" \\"

    lines = ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule"]
    lines.append(written([_escape_latex(column.title) for column in table.columns]))
    lines.append(written([_escape_latex(column.note) for column in table.columns]))
    lines.append(r"\midrule")
    for line in table.lines:
        texts = [_escape_latex(cell.text) for cell in line.cells]
        lines.append(written([rf"\textbf{{{text}}}" for text in texts] if line.kind == "best" else texts))
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"% {_one_line(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {"md": _markdown, "csv": _csv, "latex": _latex}


def _plain(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    text = str(value)
    # A spreadsheet takes text that begins like this for a formula, and runs it.
    return f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@")) else text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|~$#])", r"\\\1", _one_line(text))


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in _one_line(text))


def _width(table: Table) -> int:
    """Columns of a terminal that the table takes: the widest text of each, three between them."""
    widths = [
        max([len(column.title), len(column.note), *(len(line.cells[i].text) for line in table.lines)])
        for i, column in enumerate(table.columns)
    ]
    return sum(widths) + 3 * (len(widths) - 1)
