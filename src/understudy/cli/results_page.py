"""The tables of docs/results.md: what the types of results.json say of their own keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from pydantic import BaseModel

from understudy.cli.field_comments import field_comments
from understudy.results.schema import Results

__all__ = ["types_of_results", "with_tables"]

TABLE = re.compile(r"(<!-- keys of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with a table of keys between every `<!-- keys of TYPE -->` and its `<!-- end -->`.

    Raises:
        KeyError: a type that results.json does not hold.
    """
    types = types_of_results()
    return TABLE.sub(lambda found: f"{found[1]}\n{_table(types[found[2]])}\n{found[3]}", page)


def types_of_results() -> dict[str, type]:
    """Every type that results.json is made of, by name, the file's own first."""
    found: dict[str, type] = {}
    waiting: list[type] = [Results]
    while waiting:
        kind = waiting.pop(0)
        if kind.__name__ not in found:
            found[kind.__name__] = kind
            waiting += [inner for _, annotation in _fields(kind) for inner in _types_in(annotation)]
    return found


def _table(kind: type) -> str:
    words = field_comments(kind)
    lines = ["| key | holds |", "| --- | --- |"]
    for name, _ in _fields(kind):
        key = kind.model_fields[name].alias or name if issubclass(kind, BaseModel) else name
        lines.append(f"| `{key}` | {words.get(name, '')} |")
    return "\n".join(lines) + "\n"


def _fields(kind: type) -> Iterator[tuple[str, Any]]:
    """Names and annotations."""
    if issubclass(kind, BaseModel):
        yield from ((name, field.annotation) for name, field in kind.model_fields.items())
    elif is_dataclass(kind):
        yield from ((field.name, None) for field in fields(kind))


def _types_in(annotation: Any) -> Iterator[type]:
    """The types with keys of their own that an annotation speaks of."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        yield annotation
    for inner in get_args(annotation):
        yield from _types_in(inner)
