"""A terminal of so many columns in place of stdout."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import pytest


@contextmanager
def screen(columns: int) -> Iterator[io.StringIO]:
    """Stdout as a terminal of this width, without colour; what was printed stands in it."""
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("NO_COLOR", "1")
        patch.setenv("TERM", "xterm-256color")
        yield out


def lines_on(out: io.StringIO) -> list[str]:
    """The lines that were printed, without what styles them."""
    return re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).splitlines()
