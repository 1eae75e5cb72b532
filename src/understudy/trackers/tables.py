"""CSV files for spreadsheets and pandas: a line for each epoch, row and seed, and one for each interval of steps."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.trackers.base import Tracker
from understudy.trackers.series import flat
from understudy.utils.files import write_atomically

__all__ = ["CsvTables"]

FILES = {"epoch": "epochs.csv", "train": "steps.csv"}
FIRST = ("seed", "row", "epoch", "step", "steps", "lr")


class CsvTables(Tracker, name="csv"):
    """trackers/epochs.csv and trackers/steps.csv; a column for each number, empty where a row has none."""

    def start(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Read the headings that there are."""
        self._folder = folder / "trackers"
        self._folder.mkdir(exist_ok=True)
        self._heads = {kind: next(iter(self._read(kind)), []) for kind in FILES}

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a line to the file of its kind."""
        kind = record["kind"]
        if kind not in FILES:
            return
        found = {key: value for key, value in flat(record, by=".") if key != "kind"}
        head = self._heads[kind]
        new = [key for key in (*FIRST, *found) if key in found and key not in head]
        if new:
            self._widen(kind, list(dict.fromkeys([*head, *new])))
        with self._file(kind).open("a", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerow([_cell(found.get(key)) for key in self._heads[kind]])

    def state(self) -> dict[str, Any]:
        """The lines so far, without the heading."""
        return {kind: max(0, len(self._read(kind)) - 1) for kind in FILES}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Cut the files back."""
        for kind, lines in state.items():
            self._write(kind, self._read(kind)[: lines + 1])

    def _widen(self, kind: str, head: list[str]) -> None:
        """Give the file the columns of a line that has more."""
        before = self._read(kind)[1:]
        self._heads[kind] = head
        self._write(kind, [head, *([*line, *[""] * (len(head) - len(line))] for line in before)])

    def _file(self, kind: str) -> Path:
        return self._folder / FILES[kind]

    def _read(self, kind: str) -> list[list[str]]:
        file = self._file(kind)
        return list(csv.reader(io.StringIO(file.read_text(encoding="utf-8")))) if file.is_file() else []

    def _write(self, kind: str, lines: list[list[str]]) -> None:
        if not lines and not self._file(kind).is_file():
            return
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(lines)
        write_atomically(self._file(kind), buffer.getvalue().encode())


def _cell(value: Any) -> str:
    """As a spreadsheet reads it; text that would be taken for a formula is quoted."""
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@")) else text
