"""Every key of a recipe, as it is written: `data.batch_size`, and whose it is where not every recipe has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from understudy.methods import METHODS, MethodConfig
from understudy.optim import UPDATES, UpdateConfig

__all__ = ["Key", "keys_of"]


@dataclass(frozen=True)
class Key:
    """One key of a recipe.

    Attributes:
        path: with dots.
        owner: the group of settings that it is a field of.
        of: names of the methods, updates or augmentations that have it; none: all.
    """

    path: str
    owner: type[BaseModel]
    of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its last part: the name of the field."""
        return self.path.rpartition(".")[2]

    @property
    def field(self) -> FieldInfo:
        """Its type and default."""
        return self.owner.model_fields[self.name]


def keys_of(recipe: type[BaseModel]) -> list[Key]:
    """All keys, in the order in which they are declared; those of methods and updates at their place.

    Args:
        recipe: the type of recipes.
    """
    found: dict[str, Key] = {}
    for key in _walk(recipe, ""):
        known = found.get(key.path)
        found[key.path] = key if known is None else replace(known, of=tuple(dict.fromkeys((*known.of, *key.of))))
    return list(found.values())


def _walk(owner: type[BaseModel], prefix: str, of: tuple[str, ...] = ()) -> Iterator[Key]:
    for name, field in owner.model_fields.items():
        path = f"{prefix}{name}"
        yield Key(path, owner, of)
        if name in ("method", "update") and not prefix:
            yield from _registered(path)
            continue
        groups = _groups(field.annotation)
        for group in groups:
            yield from _walk(group, f"{path}.", _named(group) if len(groups) > 1 else of)


def _registered(path: str) -> Iterator[Key]:
    """The keys of all methods or updates: first what each of them has."""
    shared: type[BaseModel] = MethodConfig if path == "method" else UpdateConfig
    configs: dict[str, type[BaseModel]] = (
        {name: method.Config for name, method in METHODS.items()}
        if path == "method"
        else {name: update.Config for name, update in UPDATES.items()}
    )
    yield from (Key(f"{path}.{name}", shared) for name in shared.model_fields)
    for of, config in sorted(configs.items()):
        own = [name for name in config.model_fields if name not in shared.model_fields]
        yield from (Key(f"{path}.{name}", config, (of,)) for name in own)


def _named(group: type[BaseModel]) -> tuple[str, ...]:
    default = group.model_fields["name"].default if "name" in group.model_fields else None
    return (default,) if isinstance(default, str) else ()


def _groups(annotation: Any) -> list[type[BaseModel]]:
    """The groups of settings that a field may hold; those in lists and mappings are written another way."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (tuple, list, dict):
        return []
    return [group for inner in get_args(annotation) for group in _groups(inner)]
