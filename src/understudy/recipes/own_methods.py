"""Methods and probes from a person's own code: FILE.py:Class or module.path:Class, as they are typed to options."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from understudy.core.config import Config
from understudy.methods import METHODS, Method, MethodConfig
from understudy.probes import PROBES, Probe
from understudy.utils.errors import UserError, unknown_name
from understudy.utils.python_files import importable, module_of_file
from understudy.utils.untrusted import given_path

__all__ = ["load_own_method", "stand_in_for", "with_own_methods", "with_own_probes"]


def with_own_methods(text: str, *, option: str, allow_code: bool) -> str:
    """The text with every FILE.py:Class in it loaded and replaced by the method's name.

    Args:
        text: names joined by + and commas.
        option: that it was typed to.
        allow_code: whether such code may be run.

    Raises:
        UserError: it may not, or holds no such method.
    """
    return _with_own(text, load_own_method, option=option, allow_code=allow_code)


def with_own_probes(text: str, *, option: str, allow_code: bool) -> str:
    """Likewise of probes."""
    return _with_own(text, load_own_probe, option=option, allow_code=allow_code)


def load_own_method(named: str) -> str:
    """Import FILE.py:Class or module.path:Class, and the name that this method is registered under.

    Raises:
        UserError: no such file, module or class, a failing one, or a class that is no method with a name.
    """
    return _loaded(named, Method, METHODS, kind="method", base="understudy.Method")


def load_own_probe(named: str) -> str:
    """Likewise of a probe."""
    return _loaded(named, Probe, PROBES, kind="probe", base="understudy.probes.Probe")


def _with_own(text: str, load: Callable[[str], str], *, option: str, allow_code: bool) -> str:
    parts = re.split(r"([,+])", text)
    for place, part in enumerate(parts):
        if ":" in part and not allow_code:
            raise UserError(f"{option} {text}: {part.strip()} is code that would be run; add --allow-code to run it")
        parts[place] = load(part.strip()) if ":" in part else part
    return "".join(parts)


def _loaded(named: str, parent: type[Any], known: Mapping[str, type[Any]], *, kind: str, base: str) -> str:
    source, _, class_name = named.rpartition(":")
    found = getattr(home := _module(source, named, kind), class_name, None)
    if found is None:
        there = [key for key, value in vars(home).items() if isinstance(value, type) and issubclass(value, parent)]
        raise UserError(f"{kind} {named!r}: {class_name} is {unknown_name(class_name, there)}")
    name = found.__dict__.get("name") if isinstance(found, type) and issubclass(found, parent) else None
    if name is None or known.get(name) is not found:
        raise UserError(
            f"{kind} {named!r}: {class_name} is no {kind} with a name; write class {class_name}({base}, "
            f'name="{class_name.lower()}")'
        )
    return str(name)


def _module(source: str, named: str, kind: str) -> ModuleType:
    is_file = source.endswith(".py")
    file = given_path(source, what=kind)
    if is_file and not file.is_file():
        raise UserError(f"{kind} {named!r}: there is no file {source}")
    with importable(file.resolve().parent if is_file else Path.cwd()):
        try:
            return module_of_file(file) if is_file else importlib.import_module(source)
        except (Exception, SystemExit) as error:  # importing runs a person's code, which may fail in any way
            raise UserError(f"{kind} {named!r}: importing {source} failed: {type(error).__name__}: {error}") from error


def stand_in_for(recipe: Mapping[str, Any]) -> None:
    """Let a finished run be read whose methods are not known here: they count as deploying the student alone."""
    for name in sorted({*_names(recipe.get("method")), *_names(recipe.get("rows"))} - METHODS.keys()):
        _StandIn.made(name)


def _names(value: Any) -> Iterable[str]:
    """Names of methods that are written out with settings, as a run's recipe has them."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, Mapping):
            yield from _names(item["method"]) if "method" in item else [str(item.get("name"))]


class _StandIn(Method):
    """A method that is known by its name and settings alone."""

    stands_in = True

    class Config(MethodConfig):
        """Whatever settings it had."""

        model_config = Config.model_config | {"extra": "allow"}

    @classmethod
    def made(cls, name: str) -> None:
        config = type("Config", (cls.Config,), {"__module__": __name__})
        type("StandIn", (cls,), {"Config": config, "__module__": __name__}, name=name)
