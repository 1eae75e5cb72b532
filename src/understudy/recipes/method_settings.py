"""Methods and updates as a recipe writes them: by name, as mappings with one, or as several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from understudy.methods import METHODS, MethodConfig
from understudy.methods.combination import ALONE
from understudy.optim import DEFAULT_UPDATE, UPDATES, UpdateConfig, update_names
from understudy.utils.errors import unknown_name

__all__ = ["NO_METHOD", "method_config", "method_configs", "update_config"]

NO_METHOD = (ALONE, "none")


def method_configs(value: Any) -> tuple[MethodConfig, ...]:
    """Settings of all methods: of a name, "crd+kd", a mapping, or a list of these; none for "none"."""
    value = value.split("+") if isinstance(value, str) else value
    items = value if isinstance(value, Sequence) else [value]
    return tuple(method_config(item) for item in items if not _is_none(item))


def method_config(item: Any) -> MethodConfig:
    """Settings of a method from its name, a mapping with its name, or themselves."""
    if isinstance(item, MethodConfig):
        return item
    if not isinstance(item, str | Mapping):
        raise ValueError(f"must be a method's name or a mapping with one, got {item!r}")
    settings = {"name": item} if isinstance(item, str) else dict(item)
    if "name" not in settings:
        raise ValueError(
            f"no method's name stands beside these settings: {', '.join(map(str, settings))}; give --method NAME too, "
            "or say them of a row: 'rows=[alone, {name: fitnet, method: {name: fitnet, student_stages: [1]}}]'"
        )
    name = str(settings.pop("name"))
    if name not in METHODS:
        raise ValueError(f"{name!r} is {unknown_name(name, ['none', *METHODS])}")
    return METHODS[name].Config.nested(settings)


def update_config(value: Any) -> UpdateConfig:
    """Settings of an update from its name, a mapping that may have one (else the default), or themselves."""
    if isinstance(value, UpdateConfig):
        return value
    if not isinstance(value, str | Mapping):
        known = ", ".join(update_names())
        raise ValueError(f"must be {known}, or a mapping with one of these as its name, got {value!r}")
    settings = {"name": value} if isinstance(value, str) else dict(value)
    name = settings.setdefault("name", DEFAULT_UPDATE)
    if not isinstance(name, str) or name not in UPDATES:
        raise ValueError(f"{name!r} is {unknown_name(str(name), UPDATES)}")
    return UPDATES[name].Config.nested(settings)


def _is_none(item: Any) -> bool:
    name = item.get("name") if isinstance(item, Mapping) else item
    return item is None or (isinstance(name, str) and name in NO_METHOD)
