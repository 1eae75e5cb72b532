"""A row as a recipe writes it: its name, and what it has otherwise than the recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from understudy.core.config import Config
from understudy.core.published import Published, as_list
from understudy.recipes.layers import merge_layers, nested

__all__ = ["VARIABLE", "RowSettings", "row_settings"]

MOST_CHARACTERS = 100  # of a name
VARIABLE = "method.*, update.* or task_weight"  # settings that rows may differ in; batches and epochs they share
_NO_FOLDER = re.compile(r'[/\\:*?"<>|\x00-\x1f]')


class RowSettings(Config):
    """One row with settings of its own; what it does not say is the recipe's."""

    name: str  # in tables, and of the folder of its students
    method: Any = None  # laid on the recipe's; a mapping, a name, or a list of these
    task_weight: float | None = Field(default=None, ge=0)
    update: dict[str, Any] | None = None  # laid on the recipe's
    varied: dict[str, Any] = Field(default_factory=dict)  # settings by key, {update.delta: 0.05}: the axis of a figure
    settings_from: str | None = None  # where they come from, in words; written down by a run
    published: tuple[Published, ...] = ()  # what papers report for this row

    @model_validator(mode="before")
    @classmethod
    def _named_by_what_it_varies(cls, value: Any) -> Any:
        varied = value.get("varied") if isinstance(value, Mapping) else None
        if isinstance(varied, Mapping) and varied and "name" not in value:
            return {**value, "name": varied_name(varied)}
        return value

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        is_folder = name == name.strip() and not name.startswith(".") and not _NO_FOLDER.search(name)
        if not (name and is_folder and len(name) <= MOST_CHARACTERS):
            raise ValueError(
                f'names a folder, too: 1 to {MOST_CHARACTERS} characters, none of / \\ : * ? " < > |, no dot in front '
                f"and no space around it, got {name!r}"
            )
        return name

    @field_validator("varied")
    @classmethod
    def _can_be_varied(cls, varied: dict[str, Any]) -> dict[str, Any]:
        for key in varied:
            check_can_vary(key)
        return varied

    @field_validator("published", mode="before")
    @classmethod
    def _published(cls, value: Any) -> Any:
        return as_list(value)

    def changes(self) -> dict[str, Any]:
        """What the row has otherwise, as plain settings of a recipe."""
        said: dict[str, Any] = {
            key: getattr(self, key) for key in ("method", "task_weight", "update") if key in self.model_fields_set
        }
        return merge_layers([said, *(nested(key, value) for key, value in self.varied.items())])


def row_settings(value: Any) -> str | RowSettings:
    """A row of a recipe: a name as it is, or its settings read from a mapping."""
    if isinstance(value, str | RowSettings):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"a row is a name such as kd+dot, or a mapping with its name and settings, got {value!r}")
    return RowSettings.nested(value)


def check_can_vary(key: str) -> None:
    """Refuse a setting in which the rows of one comparison cannot differ.

    Raises:
        ValueError: rows share it.
    """
    root, _, rest = key.partition(".")
    if key != "task_weight" and not (root in ("method", "update") and rest):
        raise ValueError(f"{key!r} cannot differ between rows, which share batches and epochs; vary {VARIABLE}")


def varied_name(varied: Mapping[str, Any]) -> str:
    """'delta=0.05 momentum=0.9': the last part of each key, the whole key where two end alike."""
    ends = [key.rpartition(".")[2] for key in varied]
    said = [
        f"{end if ends.count(end) == 1 else key}={value}"
        for end, (key, value) in zip(ends, varied.items(), strict=True)
    ]
    return _NO_FOLDER.sub("_", " ".join(said))[:MOST_CHARACTERS].strip()
