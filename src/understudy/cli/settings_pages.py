"""`understudy settings` and docs/settings.md: every key of a recipe, by what its own field says of it."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from understudy.cli.field_comments import field_comments
from understudy.cli.messages import option_of
from understudy.cli.options import SETTINGS
from understudy.recipes.keys import Key, keys_of
from understudy.recipes.schema import Recipe
from understudy.utils.errors import UserError, unknown_name

__all__ = ["meaning_of", "settings_list", "settings_page"]

HEAD = """\
# Settings

Every key of a recipe, as `understudy settings` prints it (`understudy settings WORD` those that WORD finds). In a
file, dots are levels; on the command line, `key=value`. Where there is an option for a key, it stands in the last
column. What a method alone has is on [its page](methods.md). Written by `make docs` from the fields themselves.
"""
SIMPLE = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "anything"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def settings_list(words: Sequence[str]) -> str:
    """The keys that every word finds, with type, default, option and meaning; all keys where there are no words.

    Raises:
        UserError: there is none.
    """
    found = _found(words)
    options = _options()
    return "\n".join(_entry(key, options.get(key.path)) for key in found)


def settings_page() -> str:
    """docs/settings.md: a table for each group of keys."""
    options, parts = _options(), [HEAD]
    for group, keys in _by_group(_keys()).items():
        lines = ["| key | meaning | type | default | option |", "| --- | --- | --- | --- | --- |"]
        for key in keys:
            option = f"`{options[key.path]}`" if key.path in options else ""
            kind = type_in_words(key.field).replace("|", "\\|")
            about = meaning_of(key).replace("|", "\\|") + _whose(key)
            lines.append(f"| `{key.path}` | {about} | {kind} | `{_default(key.field)}` | {option} |")
        parts.append(f"## {group}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def meaning_of(key: Key) -> str:
    """The comment beside its field; of a method's own setting that has none, where to read of it."""
    said = field_comments(key.owner).get(key.name, "")
    return said or (f"see `understudy methods {key.of[0]}`" if key.path.startswith("method.") and key.of else "")


def type_in_words(field: FieldInfo) -> str:
    """'whole number, at least 1', 'none | rotations | pairs'."""
    bounds = [
        f"{words} {getattr(limit, name):,}"
        for limit in field.metadata
        for name, words in BOUNDS.items()
        if getattr(limit, name, None) is not None
    ]
    return ", ".join([_type(field.annotation), *bounds])


def _keys() -> list[Key]:
    """All keys but those that only stand for the group of those below them."""
    keys = keys_of(Recipe)
    return [key for key in keys if meaning_of(key) or not any(other.path.startswith(f"{key.path}.") for other in keys)]


def _found(words: Sequence[str]) -> list[Key]:
    keys, options = _keys(), _options()
    wanted = [word.lower().lstrip("-").replace("-", "_") for word in words]

    def says(key: Key, *, meaning: bool) -> bool:
        text = " ".join([key.path, *key.of, options.get(key.path, ""), meaning_of(key) * meaning]).lower()
        return all(word in text.replace("-", "_") for word in wanted)

    found = [key for key in keys if says(key, meaning=False)] or [key for key in keys if says(key, meaning=True)]
    if not found:
        names = {name for key in keys for name in (key.path, key.name)}
        raise UserError(f"setting {' '.join(words)!r} is {_near(' '.join(words), names)}")
    return found


def _near(name: str, names: set[str]) -> str:
    said = unknown_name(name, names)
    return said if "did you mean" in said else "unknown; `understudy settings` lists them all"


def _entry(key: Key, option: str | None) -> str:
    first = [f"{key.path} = {_default(key.field)}", type_in_words(key.field), *([option] if option else [])]
    return f"{'   '.join(first)}\n    {meaning_of(key)}{_whose(key)}"


def _whose(key: Key) -> str:
    return f" ({', '.join(key.of)} only)" if key.of else ""


def _options() -> dict[str, str]:
    return {key: option_of(field) for field, key in SETTINGS.items()}


def _by_group(keys: Sequence[Key]) -> dict[str, list[Key]]:
    """Keys of the recipe itself first, then each group; a method's own keys are on its page."""
    groups: dict[str, list[Key]] = {"the run": []}
    for key in keys:
        if not (key.path.startswith("method.") and key.of):
            group, dot, _ = key.path.partition(".")
            groups.setdefault(group if dot else "the run", []).append(key)
    return groups


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "needed"
    return json.dumps(_plain(value), ensure_ascii=False) if not isinstance(value, str) else value or '""'


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        name = getattr(value, "name", None)
        return name if isinstance(name, str) else value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def _type(annotation: Any) -> str:
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in inner)
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(_type, inner)))
    if origin is tuple:
        return f"list of {_type(inner[0])}" if inner[-1] is ... else f"[{', '.join(map(_type, inner))}]"
    if origin is dict:
        return "mapping"
    if hasattr(annotation, "__metadata__"):
        return _type(inner[0])
    return "settings" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else str(annotation)
