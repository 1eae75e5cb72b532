"""UserError, and what its messages are made of: the nearest name, a value shortened, what differs."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["LACKING", "UserError", "differences", "nearest", "shortened_repr", "unknown_name"]

LACKING: dict[str, str] = {}  # by name: why a part that an installed package declares is not there

MOST_CHARACTERS = 80  # of one key or value in a message
MOST_TEXT = 2_000  # of one problem


class UserError(ValueError):
    """Something a person can mend: the command line prints its text without a traceback and exits with 2."""


def differences(here: Any, there: Any, path: str = "") -> Iterator[str]:
    """'  key.path   here X, there Y' for every setting in which two trees of plain values differ."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for key in sorted({*here, *there}, key=str):
            yield from differences(here.get(key), there.get(key), f"{path}.{key}" if path else str(key))
    elif here != there:
        yield f"  {path}   here {here!r}, there {there!r}"


def shortened_repr(value: object) -> str:
    """`repr` for a message: at most a line, whatever a file holds."""
    words = reprlib.Repr()
    words.maxstring = words.maxother = words.maxlong = MOST_CHARACTERS
    words.maxlevel = 2
    return words.repr(value)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None where nothing comes near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def unknown_name(name: str, known: Iterable[str]) -> str:
    """'unknown; did you mean X?' where one is near, else 'unknown; there are: ...'; why, where a package is broken."""
    if name in LACKING:
        return f"not there: {LACKING[name]}"
    known = sorted(known)
    close = nearest(name, known)
    return f"unknown; did you mean {close}?" if close else f"unknown; there are: {', '.join(known)}"


def _shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
