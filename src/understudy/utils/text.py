"""Values written as text: counts, sizes, times and lists for people, JSON without NaN."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["bytes_in_words", "clock", "json_text", "listed", "mib", "plural", "wrapped"]


NARROW_HANG = 4  # columns that a line goes on at where there is no room to go on further right


def json_text(content: Any, *, indent: int | None = None) -> str:
    """JSON of plain values, with null for numbers that JSON does not have: those of a run that diverged."""
    text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    # A class folder whose name is no UTF-8 has halves of surrogate pairs, which no file takes but as JSON's own escape.
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def plural(number: int, one: str, many: str | None = None) -> str:
    """'1 image', '3 images'; `many` where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def listed(names: Sequence[str], most: int) -> str:
    """'a, b, ...': no more than `most` of them."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def wrapped(text: str, width: int | None, *, hang: int = 0) -> str:
    """Lines broken between words, where they are wider than a terminal; words, spaces and short lines stay.

    Args:
        text: of any number of lines.
        width: columns of the terminal; None: lines may be as long as they are.
        hang: columns that a line goes on at, beside those that it begins at.
    """
    if width is None:
        return text

    def broken(line: str) -> str:
        if len(line) <= width:
            return line
        begins = len(line) - len(line.lstrip())
        further = " " * (begins + (hang if begins + hang < 2 * width // 3 else min(hang, NARROW_HANG)))
        return textwrap.fill(
            line, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False, expand_tabs=False,
            replace_whitespace=False,
        )  # fmt: skip

    return "\n".join(map(broken, text.split("\n")))


def bytes_in_words(num_bytes: float) -> str:
    """'1.2 GB', in powers of 1000, as disks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def two_digits(value: float) -> str:
    """'2,600', '17', '0.23': what a measurement on a machine that others use, too, is worth."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.1e}")
    return f"{rounded:,.{max(1 - math.floor(math.log10(abs(rounded))), 0)}f}"


def mib(num_bytes: int, *, digits: int = 0) -> str:
    """'1,234 MiB', of memory."""
    return f"{num_bytes / 2**20:,.{digits}f} MiB"


def clock(seconds: float) -> str:
    """'0:00:21': hours, minutes, seconds."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
