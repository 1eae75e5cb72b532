"""checkpoints/seedN.json: what a finished seed of a run that goes on comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from understudy.results.schema import SCHEMA, ModelFacts, SeedResult
from understudy.results.schema1 import seed_from_schema_1
from understudy.results.values import Count, Record
from understudy.utils.errors import UserError, shortened_repr

__all__ = ["SeedRecord", "SeedRow", "seed_record_from"]


class SeedRow(Record):
    """One row under the seed."""

    record: SeedResult
    student: ModelFacts  # as deployed


class SeedRecord(Record):
    """Everything that a seed adds to the results of its run."""

    schema_number: int = Field(default=SCHEMA, alias="schema")
    rows: dict[str, SeedRow]  # by name
    skipped: tuple[str, ...] = ()  # images that could not be read, each with the reason
    lengths: tuple[Count, ...]  # epochs that the seed was to have, one after the other

    def as_dict(self) -> dict[str, Any]:
        """What the file holds, as plain values."""
        return self.model_dump(by_alias=True)


def seed_record_from(data: Mapping[str, Any], *, what: str) -> SeedRecord:
    """The record of a seed from plain values, of this schema or of the one before, which did not number it.

    Raises:
        UserError: another schema, or keys that are missing or malformed.
    """
    schema = data.get("schema", 1)
    if schema == 1 and isinstance(rows := data.get("rows"), Mapping):
        return SeedRecord.read({**data, "schema": SCHEMA, "rows": _renewed(rows)}, what=what)
    if schema != SCHEMA:
        raise UserError(f"{what}: has schema {shortened_repr(schema)}; go on with the version that began the run")
    return SeedRecord.read(data, what=what)


def _renewed(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {**row, "record": seed_from_schema_1(row.get("record"))} if isinstance(row, Mapping) else row
        for name, row in rows.items()
    }
