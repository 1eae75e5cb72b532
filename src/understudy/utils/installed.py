"""What is known by name: registered as it is defined, and imported where installed packages declare it."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from understudy.utils.errors import LACKING
from understudy.utils.untrusted import visible

__all__ = ["GROUPS", "installed_names", "load_installed", "register", "shipped_names"]

Kind = TypeVar("Kind")

GROUPS = {
    "understudy.methods": "method",
    "understudy.updates": "update",
    "understudy.probes": "probe",
    "understudy.trackers": "tracker",
    "understudy.data": "data format",
    "understudy.figures": "figure",
    "understudy.models": "model family",
}  # by entry point group: what it is of


def register(known: dict[str, type[Kind]], name: str, added: type[Kind], *, kind: str) -> None:
    """Add a class under its name; one that is defined anew, as in a notebook, replaces itself.

    Raises:
        ValueError: another one has that name.
    """
    stands_in = getattr(known.get(name), "stands_in", False)
    if name in known and not stands_in and known[name].__qualname__ != added.__qualname__:
        raise ValueError(f"there is {kind} {name!r} already: {known[name].__module__}")
    known[name] = added


def installed_names(group: str) -> list[str]:
    """Names that installed packages declare under an entry point group; nothing of theirs is imported."""
    return sorted(entry_points(group=group).names)


def shipped_names(folder: str) -> list[str]:
    """Names that classes in a folder of this package register by `name="mine"`, read off the text, without an import.

    Args:
        folder: such as optim; the folders in it are looked through after its own files.
    """
    root = Path(__file__).parents[1] / folder
    definition = re.compile(r'^class \w+\([^)]*\bname="([^"]+)"', re.MULTILINE)
    files = [*sorted(root.glob("*.py")), *sorted(root.glob("*/*.py"))]
    return [name for file in files for name in definition.findall(file.read_text(encoding="utf-8"))]


def load_installed() -> None:
    """Import everything that installed packages declare under the entry point groups of `GROUPS`.

    What cannot be imported is left out with a warning on stderr; whoever asks for it by name is told why.
    """
    LACKING.clear()
    for group, kind in GROUPS.items():
        for entry in entry_points(group=group):
            try:
                entry.load()
            except (Exception, SystemExit) as error:  # whatever somebody else's module raises at import
                package = entry.dist.name if entry.dist else entry.value
                why = f"package {package} cannot be imported: {type(error).__name__}: {error}"
                LACKING[entry.name] = visible(why)
                if os.environ.get("RANK", "0") == "0":  # of several processes one says it
                    print(visible(f"warning  the {kind} {entry.name!r} is left out: {why}"), file=sys.stderr)
