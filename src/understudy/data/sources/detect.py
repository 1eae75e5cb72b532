"""find: what lies at data.root, whatever its format.

Every module of this folder is imported, so that its reader is registered.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from understudy.data import sources
from understudy.data.config import DataConfig
from understudy.data.sources.found import Found
from understudy.data.sources.merge import merged
from understudy.data.sources.orientation import set_orientation
from understudy.data.sources.readers import AUTO, READERS, Reader, in_order
from understudy.utils.errors import UserError, nearest
from understudy.utils.untrusted import given_path

__all__ = ["existing", "find", "roots_of", "task_at"]

# Here, not in the package's __init__: some readers import what imports the package.
for _module in iter_modules(sources.__path__):
    import_module(f"{sources.__name__}.{_module.name}")


def find(config: DataConfig) -> Found:
    """The splits at `config.root`; of several roots, put together.

    Raises:
        UserError: nothing there, or not in a form that can be used; the text says what was found and what to do.
    """
    return merged([_found(root, config) for root in roots_of(config.root)])


def task_at(config: DataConfig) -> str:
    """The task that what lies at `config.root` is for, by its form alone; classification where that does not say it."""
    try:
        root = roots_of(config.root)[0]
        reader = READERS[config.format] if config.format != AUTO else _reader_of(root)
        return reader.task_of(given_path(root, what="data.root"), config)
    except UserError:  # whoever opens it says what is wrong
        return READERS["folder"].task


def roots_of(root: str) -> list[str]:
    """One root, or the several that are written with commas between them."""
    if given_path(root, what="data.root").exists() or _is_name_of(root) is not None:
        return [root]  # a comma may be part of a name
    return [part.strip() for part in root.split(",") if part.strip()] or [root]


def existing(text: str, key: str) -> Path:
    """The path, if there is something at it.

    Raises:
        UserError: naming the key, the path and the nearest name beside it.
    """
    path = given_path(text, what="data.root")
    if path.exists():
        return path
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, [*beside, *(["digits"] if key == "root" and path.parent == Path() else [])])
    raise UserError(f"data.{key}: there is nothing at {text}" + (f"; did you mean {close}?" if close else ""))


def refuse_absent_root(config: DataConfig) -> None:
    """Raise the UserError that opening the data would, where a folder or file of theirs is not there."""
    for root in roots_of(config.root):
        is_name = _is_name_of(root) is not None if config.format == AUTO else READERS[config.format].takes_names
        if not is_name:
            existing(root, "root")


def _found(root: str, config: DataConfig) -> Found:
    reader = READERS[config.format] if config.format != AUTO else _reader_of(root)
    if not reader.takes_names:
        existing(root, "root")
    found = reader.open(given_path(root, what="data.root"), config)
    set_orientation(found.splits.values(), applies_exif=config.exif_rotation)
    return found


def _reader_of(root: str) -> type[Reader]:
    """Whoever says first that the root is a name of its own, else that what lies there is."""
    named = _is_name_of(root)
    if named is not None:
        return named
    path = existing(root, "root")
    for reader in in_order():
        if reader.sniff(path):
            return reader
    raise UserError(f"data.root: {root} is neither a folder nor a .parquet file")


def _is_name_of(root: str) -> type[Reader] | None:
    """The reader that knows the root by name; None where it is a path."""
    return next((reader for reader in in_order() if reader.is_name(root)), None)
