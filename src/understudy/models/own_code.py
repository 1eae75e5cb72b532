"""Networks from a user's own code: FILE.py:factory or module.path:factory."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from understudy.models.names import NAMED_FORMS, NAMED_SOURCES
from understudy.utils.errors import UserError, nearest, unknown_name
from understudy.utils.python_files import importable, module_of_file
from understudy.utils.untrusted import given_path

__all__ = ["call_factory"]


def call_factory(source: str, factory_name: str, num_classes: int, kwargs: Mapping[str, Any]) -> nn.Module:
    """What `factory_name` in the importable module or Python file `source` returns.

    The current directory, or that of the file, is importable. The factory, which may be a class of networks, is called
    with `num_classes` where it accepts that.

    Raises:
        UserError: nothing to import, no such factory, a failing one, or one that returns no nn.Module.
    """
    name = f"{source}:{factory_name}"
    with importable(Path(source).resolve().parent if source.endswith(".py") else Path.cwd()):
        factory = _factory(source, factory_name)
        arguments = {"num_classes": num_classes, **kwargs} if _accepts_num_classes(factory) else dict(kwargs)
        try:
            module = factory(**arguments)
        except Exception as error:  # a user's code may fail in any way; the cause stays attached
            asks = isinstance(error, TypeError) and "argument" in str(error)
            hint = "; what it takes beside num_classes is kwargs, as in student.kwargs='{width: 8}'" if asks else ""
            raise UserError(f"model {name!r}: the factory failed: {type(error).__name__}: {error}{hint}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"model {name!r}: the factory must return an nn.Module, got {type(module).__name__}")
    return module


def _meant(source: str) -> str:
    """What may have been meant by a source that nothing is imported by."""
    close = nearest(source, NAMED_SOURCES)
    return f"; did you mean {close}:?" if close else ""


def _home(source: str, factory_name: str) -> ModuleType:
    if not source.endswith(".py"):
        return importlib.import_module(source)
    file = given_path(source, what="model")
    if not file.is_file():
        raise UserError(
            f"model '{source}:{factory_name}': there is no file {source} in {Path.cwd()}; of a trained student "
            f"--module FOLDER/{file.name}:{factory_name} says where it lies now"
        )
    return module_of_file(file)


def _factory(source: str, factory_name: str) -> Callable[..., object]:
    try:
        home = _home(source, factory_name)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"model '{source}:{factory_name}': cannot import {source} ({error}); looked in the current directory "
            f"and among the installed packages{_meant(source)}. Named models are {NAMED_FORMS}"
        ) from error
    except (Exception, SystemExit) as error:  # importing runs a user's code, which may fail in any way
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
