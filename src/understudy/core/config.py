"""Config, the base of all settings: checked, frozen, with every problem in one message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from understudy.utils.errors import MOST_TEXT, UserError, _shortened, nearest, shortened_repr, unknown_name

__all__ = ["Config"]

UNKNOWN = "unknown; there are"
MOST_KEYS = 4  # that one message proposes
MOST_PROBLEMS = 30  # of one group of settings that are put into words
SHOULD_BE = "input should be "
IN_WORDS = {  # what pydantic says of types in Python's words, in those of a recipe
    "a whole number": ("int_type", "int_parsing", "int_from_float"),
    "a number": ("float_type", "float_parsing"),
    "true or false": ("bool_type", "bool_parsing"),
    "text": ("string_type",),
    "a list, as in [1, 2]": ("tuple_type", "list_type"),
    "a mapping, as in {KEY: VALUE}": ("dict_type", "mapping_type"),
}
_WORDS_OF = {kind: words for words, kinds in IN_WORDS.items() for kind in kinds}


class Config(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def known_keys(cls) -> Iterable[str]:
        """Key paths that a misspelt or misplaced one is compared with."""
        return cls.model_fields

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
            nested = item["ctx"]["problems"]
            whole = [(f"{path}.{sub}" if sub else path, text) for sub, text in nested]
            found += [(key, _or_elsewhere(key, text, root)) for key, text in whole]
        elif item["type"] == "extra_forbidden":
            found.append((path, _unknown_key(str(item["loc"][-1]), _fields_at(root, item["loc"][:-1]), root)))
        elif item["type"] == "model_type":
            fields = ", ".join(f"{path}.{name}" for name in _fields_at(root, item["loc"]))
            found.append((path, f"is a group of settings ({fields}), got {shortened_repr(item['input'])}"))
        elif item["type"] == "missing":
            found.append((path, "is missing"))
        elif item["type"] in ("value_error", "assertion_error"):
            found.append((path, _shortened(str(item["ctx"]["error"]), MOST_TEXT)))
        else:
            found.append((path, f"{_in_words(item)}, got {shortened_repr(item['input'])}"))
    return _joined(dict.fromkeys(found))


def _in_words(item: Mapping[str, Any]) -> str:
    """'input should be a whole number': what pydantic says of a value, without Python's names of types."""
    if item["type"] in _WORDS_OF:
        return f"{SHOULD_BE}{_WORDS_OF[item['type']]}"
    if item["type"] == "too_short":
        return f"needs at least {item['ctx']['min_length']} of them"
    if item["type"] == "too_long":
        return f"takes at most {item['ctx']['max_length']} of them"
    said = str(item["msg"])
    return f"{said[0].lower()}{said[1:]}"


def _joined(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The problems, those in one where a value is none of several things that its key may be."""
    joined: list[tuple[str, str]] = []
    for path, text in found:
        before = joined[-1] if joined else ("", "")
        wanted, _, got = before[1].rpartition(", got ")
        if path == before[0] and wanted and text.startswith(SHOULD_BE) and text.endswith(f", got {got}"):
            joined[-1] = (path, f"{wanted} or {text.removeprefix(SHOULD_BE)}")
        else:
            joined.append((path, text))
    return joined


def _unknown_key(name: str, beside: Sequence[str], root: type[BaseModel]) -> str:
    """'unknown; did you mean update.lr?': the same name elsewhere, a near one beside it, a near one elsewhere."""
    if elsewhere := _ending_in(name, root):
        return f"unknown; did you mean {elsewhere}?"
    if nearest(name, beside) is None:
        near = nearest(name, [key.rpartition(".")[2] for key in _known_keys(root)])
        if near is not None and (elsewhere := _ending_in(near, root)):
            return f"unknown; did you mean {elsewhere}?"
    return unknown_name(name, beside)


def _or_elsewhere(path: str, text: str, root: type[BaseModel]) -> str:
    """What a nested group of settings says of an unknown key, or where else in the whole that name is known.

    A key that other methods have at the same place is unknown to this one, and is no answer.
    """
    is_elsewhere = text.startswith(UNKNOWN) and path not in _known_keys(root)
    elsewhere = _ending_in(path.rpartition(".")[2], root) if is_elsewhere else ""
    return f"unknown; did you mean {elsewhere}?" if elsewhere else text


def _ending_in(name: str, root: type[BaseModel]) -> str:
    """'student.weights or teacher.weights': the keys whose last part is `name`."""
    found = [key for key in _known_keys(root) if "." in key and key.rpartition(".")[2] == name]
    return " or ".join(found[:MOST_KEYS])


def _known_keys(root: type[BaseModel]) -> list[str]:
    return list(root.known_keys()) if issubclass(root, Config) else []


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
