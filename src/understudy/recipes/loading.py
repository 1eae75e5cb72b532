"""Recipe files: found by name, read, and laid on one another as plain values. Nothing is validated here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any

from understudy.recipes.layers import ORIGIN, merge_layers, merged
from understudy.utils.errors import UserError, nearest, shortened_repr
from understudy.utils.untrusted import given_path, plain_yaml

__all__ = [
    "ASSUMED",
    "METHODS_FILE",
    "STRATEGIES",
    "merged",
    "opening_comment",
    "parsed_yaml",
    "read_recipe",
    "read_recipes",
    "read_shipped",
    "recipe_names",
    "shipped_names",
    "strategy_names",
]

MAX_RECIPE_BYTES = 1_000_000
MAX_EXTENDED = 20  # recipes above each other
STRATEGIES = "strategies/"
METHODS_FILE = "methods"  # beside the recipes of a data set: settings of rows that have no recipe
ASSUMED = "classification/"  # what the name of a shipped recipe may leave out
UNRUN = ("base", "pairs", METHODS_FILE)  # files and folders that are read by others, not run


def recipe_names() -> list[str]:
    """Names of the shipped recipes that can be run."""
    return [
        name for name in shipped_names() if not name.startswith(STRATEGIES) and not set(UNRUN) & set(name.split("/"))
    ]


def strategy_names() -> list[str]:
    """Names of the shipped strategies: how long, by which steps and on which augmentation a recipe is trained."""
    return [name for name in shipped_names() if name.startswith(STRATEGIES)]


@cache
def shipped_names() -> tuple[str, ...]:
    """Names of all shipped files, those that are only read by others too."""
    root = _root()
    return tuple(sorted(str(file.relative_to(root).with_suffix("").as_posix()) for file in root.rglob("*.yaml")))


def read_recipes(names: Sequence[str]) -> dict[str, Any]:
    """The plain values of a recipe with strategies laid on it, the last on top; nothing where nothing is named.

    Raises:
        UserError: a second name that is no strategy.
    """
    if any(not name.startswith(STRATEGIES) for name in names[1:]):
        raise UserError(
            f"one recipe at a time, got {', '.join(names)}; settings are key=value, and what can be laid on a recipe "
            f"is named {STRATEGIES}NAME"
        )
    return merge_layers(read_recipe(name) for name in names)


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """The plain values of a recipe file or shipped recipe, laid on those of the recipes that it extends in turn.

    Beside the settings: the shipped recipe that they began with (`origin`), and rules that wait (`where`).
    """
    return _read(name_or_file, (), {})


@cache
def read_shipped(name: str) -> dict[str, Any]:
    """`read_recipe` of a shipped one, read once; not to be written to."""
    return read_recipe(name)


def opening_comment(name: str) -> list[str]:
    """What the file of a shipped recipe says of itself in the comments above its settings; nothing of other names."""
    if name not in shipped_names():
        return []
    lines = (_root() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    said = takewhile(lambda line: line.startswith(("#", "extends:")), lines)
    return [line.removeprefix("#").strip() for line in said if line.startswith("#")]


def parsed_yaml(text: str, *, what: str) -> Any:
    """Plain values from YAML.

    Raises:
        UserError: no YAML, or {width:0.25}, which YAML takes for a key 'width:0.25' without a value; timm's networks
            pass over such an argument, and another network than the one asked for would be trained.
    """
    found = plain_yaml(text, what=what)
    if key := next(_keys_with_their_value(found), None):
        name, _, value = key.partition(":")
        raise UserError(f"{what}: {{{key}}} has no space after its colon; write {{{name}: {value}}}")
    return found


def _keys_with_their_value(value: Any) -> Iterator[str]:
    """Keys such as width:0.25 that stand for nothing, at any depth."""
    if isinstance(value, Mapping):
        yield from (key for key, of in value.items() if of is None and re.fullmatch(r"[A-Za-z_]\w*:\S+", str(key)))
        for of in value.values():
            yield from _keys_with_their_value(of)
    elif isinstance(value, list):
        for of in value:
            yield from _keys_with_their_value(of)


def _read(name_or_file: str, seen: tuple[str, ...], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One file and what it extends; `known` has what was read before, so that every file is read once."""
    file = _found(name_or_file)
    here = str(file.resolve())
    if here in seen:
        raise UserError(f"recipe {name_or_file} extends itself: {' -> '.join((*seen, here))}")
    if len(seen) >= MAX_EXTENDED:
        raise UserError(f"recipe {seen[0]} stands on more than {MAX_EXTENDED} others; name them in one list")
    if here not in known:
        data = _read_yaml(file)
        parents = _parents(data.pop("extends", None), what=f"recipe {name_or_file}")
        below = merge_layers(_read(_beside(file, parent), (*seen, here), known) for parent in parents)
        known[here] = _with_origin(merged(below, data), file)
    return known[here]


def _with_origin(settings: dict[str, Any], file: Path) -> dict[str, Any]:
    """The settings with the shipped recipe that they are or began with; an own file that extends none is its own."""
    shipped = _shipped_name(file)
    if shipped is not None and shipped.startswith(STRATEGIES):
        return settings
    if shipped is None and ORIGIN in settings:
        return settings
    data = settings.get(ORIGIN, {}).get("data") or (shipped and "/".join(shipped.split("/")[:2]))
    return {**settings, ORIGIN: {"recipe": shipped or str(file), "data": data, "changes": {}}}


def _parents(extended: Any, *, what: str) -> list[str]:
    parents = [] if extended is None else extended if isinstance(extended, list) else [extended]
    for parent in parents:
        if not isinstance(parent, str):
            raise UserError(f"{what}: extends names a recipe or file, or a list of these, got {shortened_repr(parent)}")
    return parents


def _root() -> Path:
    return Path(str(resources.files("understudy.recipes") / "library"))


def _shipped_name(file: Path) -> str | None:
    """'classification/digits/demo', or None for a person's own file."""
    inside = file.resolve(), _root().resolve()
    return inside[0].relative_to(inside[1]).with_suffix("").as_posix() if inside[0].is_relative_to(inside[1]) else None


def _beside(file: Path, parent: str) -> str:
    """The parent as a file beside the one that extends it, where there is such a file."""
    beside = given_path(file.parent / parent, what="extends")
    return str(beside) if beside.suffix in (".yaml", ".yml") and beside.is_file() else parent


def _found(name_or_file: str) -> Path:
    file = given_path(name_or_file, what="recipe")
    if file.suffix in (".yaml", ".yml"):
        if not file.is_file():
            raise UserError(f"there is no recipe file {name_or_file}")
        return file
    root = _root()
    for shipped in (root / f"{name_or_file}.yaml", root / ASSUMED / f"{name_or_file}.yaml"):
        if shipped.is_file() and shipped.resolve().is_relative_to(root.resolve()):
            return shipped
    names = [*recipe_names(), *strategy_names()]
    close = nearest(name_or_file, [short for name in names for short in (name, name.split("/", 1)[-1])])
    hint = f"did you mean {close}? " if close else ""
    raise UserError(f"there is no recipe {name_or_file!r}; {hint}`understudy recipes` lists them, a file ends in .yaml")


def _read_yaml(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_RECIPE_BYTES:
        raise UserError(f"recipe {file} has {file.stat().st_size:,} bytes; a recipe has at most {MAX_RECIPE_BYTES:,}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"recipe {file} is no UTF-8 text") from None
    data = parsed_yaml(text, what=f"recipe {file}")
    if not isinstance(data, dict) or ORIGIN in data:
        raise UserError(f"recipe {file} must be a mapping of settings, got {type(data).__name__}")
    return data
