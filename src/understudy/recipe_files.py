"""Recipe files: found by name, read, and laid on one another as plain values. Nothing is validated here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from understudy.config import UserError, nearest, shortened_repr
from understudy.untrusted import given_path, plain_yaml
from understudy.updates import UPDATES, UpdateConfig

__all__ = [
    "ASSUMED",
    "STRATEGIES",
    "merged",
    "parsed_yaml",
    "read_recipe",
    "read_recipes",
    "recipe_names",
    "strategy_names",
]

MAX_RECIPE_BYTES = 1_000_000
MAX_EXTENDED = 20  # recipes above each other
STRATEGIES = "strategies/"
ASSUMED = "classification/"  # what the name of a shipped recipe may leave out
WHOLE = ("published",)  # settings of which a layer gives all or none: what a table says of one run, it says of no other
ABOUT_A_MODEL = ("weights", "kwargs", "expected_top1")  # what another model does not inherit
UNRUN = ("base", "pairs")  # files and folders that are extended, not run


def recipe_names() -> list[str]:
    """Names of the shipped recipes that can be run."""
    return [name for name in _shipped() if not name.startswith(STRATEGIES) and not set(UNRUN) & set(name.split("/"))]


def strategy_names() -> list[str]:
    """Names of the shipped strategies: how long, by which steps and on which augmentation a recipe is trained."""
    return [name for name in _shipped() if name.startswith(STRATEGIES)]


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
    return _laid_on_each_other(read_recipe(name) for name in names)


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """The plain values of a recipe file or shipped recipe, laid on those of the recipes that it extends in turn."""
    return _read(name_or_file, (), {})


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping.

    A mapping with a new `name` replaces the old one, since another method's settings mean nothing to it; another
    update keeps what all updates have (learning rate, momentum, decay), another optimizer what it reads too, another
    model what is not about weights. What was published is replaced as a whole.
    """
    result = dict(base)
    for key, value in over.items():
        before = result.get(key)
        if key in ("method", "update"):
            value, before = _as_mapping(value), _as_mapping(before)
        if key in WHOLE or not (isinstance(before, Mapping) and isinstance(value, Mapping)):
            result[key] = value
        elif value.get("name", before.get("name")) == before.get("name"):
            result[key] = merged(_kept(before, value), value)
        elif key == "update":
            shared = {name: setting for name, setting in before.items() if name in UpdateConfig.model_fields}
            result[key] = {**_kept(shared, value), **value}
        else:
            result[key] = dict(value)
    return result


def parsed_yaml(text: str, *, what: str) -> Any:
    """Plain values from YAML."""
    return plain_yaml(text, what=what)


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
        below = _laid_on_each_other(_read(_beside(file, parent), (*seen, here), known) for parent in parents)
        known[here] = merged(below, data)
    return known[here]


def _parents(extended: Any, *, what: str) -> list[str]:
    parents = [] if extended is None else extended if isinstance(extended, list) else [extended]
    for parent in parents:
        if not isinstance(parent, str):
            raise UserError(f"{what}: extends names a recipe or file, or a list of these, got {shortened_repr(parent)}")
    return parents


def _kept(before: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of the settings before still means something under a new model or optimizer."""
    if "model" in before and value.get("model", before["model"]) != before["model"]:
        return {name: setting for name, setting in before.items() if name not in ABOUT_A_MODEL}
    old = before.get("optimizer", UpdateConfig.model_fields["optimizer"].default)
    new = value.get("optimizer", old)
    if new != old:
        readers = {name: who for update in UPDATES.values() for name, who in update.Config.only_with.items()}
        return {name: setting for name, setting in before.items() if new in readers.get(name, (new,))}
    return before


def _laid_on_each_other(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for layer in layers:
        result = merged(result, layer)
    return result


def _as_mapping(value: Any) -> Any:
    """'kd' as {name: kd}; anything else, 'crd+kd' too, as it is."""
    return {"name": value} if isinstance(value, str) and "+" not in value else value


def _root() -> Path:
    return Path(str(resources.files("understudy") / "recipes"))


def _shipped() -> list[str]:
    root = _root()
    return sorted(str(file.relative_to(root).with_suffix("").as_posix()) for file in root.rglob("*.yaml"))


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
    if not isinstance(data, dict):
        raise UserError(f"recipe {file} must be a mapping of settings, got {type(data).__name__}")
    return data
