"""results.json of a run folder, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.results.schema import SCHEMA, Results
from understudy.results.schema1 import from_schema_1
from understudy.utils.errors import UserError, shortened_repr
from understudy.utils.untrusted import given_path, plain_json, shown, text_of

__all__ = ["read_results", "results_from"]

MAX_BYTES = 64_000_000  # a run of 60 rows, 5 seeds and 1,000 classes writes 0.2 MB


def read_results(path: str | Path) -> Results:
    """Read a results.json, or the one in a run folder.

    Raises:
        UserError: there is no such file, it is no JSON, another schema, or lacks keys (all named at once).
    """
    path = given_path(path, what="run folder")
    file = path / "results.json" if path.is_dir() else path
    if not file.exists():
        raise UserError(
            f"{file}: there is no such file; a run writes it when it ends, so finish the run (the same command "
            "continues it) or name another folder"
        )
    text = text_of(file, most_bytes=MAX_BYTES)
    try:
        data = shown(plain_json(text))
    except ValueError as error:
        raise UserError(f"{file}: is no JSON ({error}); restore it or run again with --overwrite") from None
    if not isinstance(data, dict):
        raise UserError(f"{file}: holds no results but {type(data).__name__}; restore it or run again with --overwrite")
    return results_from(data, what=str(file))


def results_from(data: Mapping[str, Any], *, what: str) -> Results:
    """Results from the plain values of a results.json, of this schema or of the one before.

    Raises:
        UserError: another schema, or keys that are missing or malformed (all named at once).
    """
    schema = data.get("schema")
    if schema == 1 and schema is not True:
        return Results.read(from_schema_1(data), what=what)
    if schema != SCHEMA:
        raise UserError(
            f"{what}: has schema {shortened_repr(schema)}, but this version reads 1 and {SCHEMA}; "
            "use the version that wrote it"
        )
    return Results.read(data, what=what)
