"""Networks from a user's own code: module.path:factory."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from understudy.models.names import NAMED_FORMS, NAMED_SOURCES
from understudy.utils.errors import UserError, nearest, unknown_name

__all__ = ["call_factory"]


def call_factory(source: str, factory_name: str, num_classes: int, kwargs: Mapping[str, Any]) -> nn.Module:
    """What `factory_name` in the importable module `source` returns; the current directory is importable.

    The factory is called with `num_classes` where it accepts that.

    Raises:
        UserError: nothing to import, no such factory, a failing one, or one that returns no nn.Module.
    """
    name = f"{source}:{factory_name}"
    with _current_directory_importable():
        factory = _factory(source, factory_name)
        arguments = {"num_classes": num_classes, **kwargs} if _accepts_num_classes(factory) else dict(kwargs)
        try:
            module = factory(**arguments)
        except Exception as error:  # a user's code may fail in any way; the cause stays attached
            raise UserError(f"model {name!r}: the factory failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"model {name!r}: the factory must return an nn.Module, got {type(module).__name__}")
    return module


def _meant(source: str) -> str:
    """What may have been meant by a source that nothing is imported by."""
    close = nearest(source, NAMED_SOURCES)
    return f"; did you mean {close}:?" if close else ""


def _factory(source: str, factory_name: str) -> Callable[..., object]:
    try:
        home = importlib.import_module(source)
    except ImportError as error:
        raise UserError(
            f"model '{source}:{factory_name}': cannot import {source} ({error}); looked in the current directory "
            f"and among the installed packages{_meant(source)}. Named models are {NAMED_FORMS}"
        ) from error
    except Exception as error:  # importing runs a user's code, which may fail in any way
        raise UserError(
            f"model '{source}:{factory_name}': importing {source} failed: {type(error).__name__}: {error}"
        ) from error
    factory = getattr(home, factory_name, None)
    if not callable(factory):
        there = [key for key, value in vars(home).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"model '{source}:{factory_name}': {factory_name} is {unknown_name(factory_name, there)}")
    return factory  # type: ignore[no-any-return]


def _accepts_num_classes(factory: Callable[..., object]) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # built in C: no signature to read
        return False
    return "num_classes" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
