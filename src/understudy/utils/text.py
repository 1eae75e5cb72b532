"""Values written as text: JSON without NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["json_text"]


def json_text(content: Any, *, indent: int | None = None) -> str:
    """JSON of plain values, with null for numbers that JSON does not have: those of a run that diverged."""
    text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    # A class folder whose name is no UTF-8 has halves of surrogate pairs, which no file takes but as JSON's own escape.
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
