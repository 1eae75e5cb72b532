"""results.json of a run folder, read and checked."""

from __future__ import annotations

from pathlib import Path

from understudy.results.schema import SCHEMA, Results
from understudy.utils.errors import UserError, shortened_repr
from understudy.utils.untrusted import given_path, plain_json, shown, text_of

__all__ = ["read_results"]

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
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise UserError(
            f"{file}: has schema {shortened_repr(found)}, but this version reads {SCHEMA}; "
            "use the version that wrote it"
        )
    return Results.read(data, what=str(file))
