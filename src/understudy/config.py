"""Settings: the frozen base of every Config, and problems said so that a person can mend them."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

__all__ = ["Config", "UserError", "differences", "nearest", "shortened_repr", "unknown_name"]

MOST_PROBLEMS = 30  # of one group of settings that are put into words
MOST_CHARACTERS = 80  # of one key or value in a message
MOST_TEXT = 2_000  # of one problem


class UserError(ValueError):
    """Something a person can mend: the command line prints its text without a traceback and exits with 2."""


class Config(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def read(cls, data: Mapping[str, Any], *, what: str) -> Self:
        """Validate `data`; every problem goes into one `UserError` that starts with `what`."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            found = problems_of(error, cls)
            more = max(error.error_count() - MOST_PROBLEMS, 0)
            count = "1 problem" if len(found) + more == 1 else f"{len(found) + more} problems"
            width = max(len(path) for path, _ in found)
            lines = [f"  {path:<{width}}   {text}" if path else f"  {text}" for path, text in found]
            lines += [f"  and {more} more"] * (more > 0)
            raise UserError("\n".join([f"{what}, {count}", *lines])) from None

    @classmethod
    def nested(cls, data: Mapping[str, Any]) -> Self:
        """As `model_validate`, for use inside another Config's validator: key paths survive the nesting."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise PydanticCustomError("nested", "see the problems", {"problems": problems_of(error, cls)}) from None


def problems_of(error: ValidationError, root: type[BaseModel]) -> list[tuple[str, str]]:
    """The (key path, problem) pairs of a pydantic error, in plain words, each once."""
    found: list[tuple[str, str]] = []
    for item in error.errors()[:MOST_PROBLEMS]:
        path = ".".join(_shortened(str(part)) for part in item["loc"] if not _is_validator_label(part))
        if item["type"] == "nested":
            found += [(f"{path}.{sub}" if sub else path, text) for sub, text in item["ctx"]["problems"]]
        elif item["type"] == "extra_forbidden":
            found.append((path, unknown_name(str(item["loc"][-1]), _fields_at(root, item["loc"][:-1]))))
        elif item["type"] == "model_type":
            fields = ", ".join(f"{path}.{name}" for name in _fields_at(root, item["loc"]))
            found.append((path, f"is a group of settings ({fields}), got {shortened_repr(item['input'])}"))
        elif item["type"] == "missing":
            found.append((path, "is missing"))
        elif item["type"] in ("value_error", "assertion_error"):
            found.append((path, _shortened(str(item["ctx"]["error"]), MOST_TEXT)))
        else:
            found.append((path, f"{item['msg'][0].lower()}{item['msg'][1:]}, got {shortened_repr(item['input'])}"))
    return list(dict.fromkeys(found))


def differences(here: Any, there: Any, path: str = "") -> Iterator[str]:
    """'  key.path   here X, there Y' for every setting in which two trees of plain values differ."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for key in sorted({*here, *there}, key=str):
            yield from differences(here.get(key), there.get(key), f"{path}.{key}" if path else str(key))
    elif here != there:
        yield f"  {path}   here {here!r}, there {there!r}"


def shortened_repr(value: object) -> str:
    """`repr` for a message: at most a line, whatever a file holds."""
    words = reprlib.Repr()
    words.maxstring = words.maxother = words.maxlong = MOST_CHARACTERS
    words.maxlevel = 2
    return words.repr(value)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None where nothing comes near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def unknown_name(name: str, known: Iterable[str]) -> str:
    """'unknown; did you mean X?' where one is near, else 'unknown; there are: ...'."""
    known = sorted(known)
    close = nearest(name, known)
    return f"unknown; did you mean {close}?" if close else f"unknown; there are: {', '.join(known)}"


def _shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _is_validator_label(part: int | str) -> bool:
    return isinstance(part, str) and any(mark in part for mark in "[]()")


def _fields_at(root: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Field names of the Config that the key path leads to, as far as the static types tell."""
    here: Any = root
    for part in path:
        field = here.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            continue
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not models:
            return []
        here = models[0]
    return list(here.model_fields)
