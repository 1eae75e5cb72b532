"""Python that a person wrote: modules by the name of their file, found without being installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

__all__ = ["importable", "module_of_file"]

_KNOWN: dict[tuple[Path, int], ModuleType] = {}  # by place and time of writing: a file that was changed is run again


def module_of_file(file: Path) -> ModuleType:
    """Run a file that ends in .py, and give the module; the same one as before while the file stays as it is.

    Raises:
        Exception: whatever the code of the file raises.
    """
    key = (file.resolve(), file.stat().st_mtime_ns)
    if key not in _KNOWN:
        spec = spec_from_file_location(file.stem, file)
        assert spec is not None, "a file that ends in .py has a loader"
        assert spec.loader is not None
        module = module_from_spec(spec)
        is_first = sys.modules.setdefault(file.stem, module) is module  # classes are looked up there when pickled
        try:
            spec.loader.exec_module(module)
        except BaseException:
            if is_first:
                del sys.modules[file.stem]
            raise
        _KNOWN[key] = module
    return _KNOWN[key]


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules of this folder can be imported within the block, before any others of their names."""
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
