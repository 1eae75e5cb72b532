"""What every row did: what is alike in all of them once, and a column for each setting in which they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from understudy.results.schema import Results, Row

__all__ = ["RowSettings", "flat_settings", "row_settings"]


@dataclass(frozen=True, slots=True)
class RowSettings:
    """Settings of rows, sorted by whether they tell the rows apart.

    Attributes:
        alike: key and value of what all rows have in common.
        columns: keys of what differs.
        lines: name of each row, and its values in the order of `columns`; "–" where it has no such setting.
    """

    alike: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]


def row_settings(results: Results) -> RowSettings:
    """The settings of a run's rows: methods, their settings and weights, the update and the student."""
    found = {row.name: dict(_settings(row)) for row in results.rows}
    keys = dict.fromkeys(key for settings in found.values() for key in settings)
    columns = [key for key in keys if len({settings.get(key) for settings in found.values()}) > 1]
    alike = [(key, next(iter(found.values()))[key]) for key in keys if key not in columns]
    lines = [(name, tuple(settings.get(key, "–") for key in columns)) for name, settings in found.items()]
    return RowSettings(tuple(alike), tuple(columns), tuple(lines))


def _settings(row: Row) -> Iterator[tuple[str, str]]:
    yield "methods", "; ".join(_method(method) for method in row.methods) or "none: the labels alone"
    if row.task_weight is not None:
        yield "task weight", _value(row.task_weight)
    for key, value in flat_settings(row.update or {}):
        yield f"update.{key}", value
    yield "student", row.student.model
    if row.settings_from:
        yield "settings of", row.settings_from


def _method(settings: Mapping[str, Any]) -> str:
    """'kd: temperature 4, weight 0.9'."""
    shown = {key: value for key, value in settings.items() if key != "name" and not _says_nothing(key, value)}
    rest = [f"{key} {_value(value)}" for key, value in shown.items()]
    name = str(settings.get("name", "settings"))
    return f"{name}: {', '.join(rest)}" if rest else name


def _says_nothing(key: str, value: Any) -> bool:
    return value in (None, [], {}) or (key, value) in (("warmup_epochs", 0), ("rows", "all"))


def flat_settings(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (key path, value); what is null is left out."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{path}{key}.")
        elif value is not None:
            yield f"{path}{key}", _value(value)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
