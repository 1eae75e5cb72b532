"""`import understudy` makes timm know the cifar networks, whichever of the two is imported first, at no cost before."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register_with_timm"]


def register_with_timm() -> None:
    """Register the cifar networks with timm: now if it is imported, else as soon as it is.

    `timm.create_model("local-dir:FOLDER")` on a student of ours needs them, and users are promised that
    `import understudy` is enough; importing timm for that takes seconds, which `understudy --help` would wait for.
    """
    if "timm" in sys.modules:
        importlib.import_module("understudy.models")
    elif not any(isinstance(finder, _WaitsForTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WaitsForTimm())


class _WaitsForTimm(importlib.abc.MetaPathFinder):
    """Finds nothing itself; where timm is looked for, what is found imports our networks after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)  # once; and timm is found by the others
        spec = importlib.util.find_spec("timm")
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenOurs(spec.loader)
        return spec


class _ThenOurs(importlib.abc.Loader):
    """Loads a module as its own loader does, then understudy.models."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader  # as if nobody had waited for it
        self.loader.exec_module(module)
        importlib.import_module("understudy.models")
