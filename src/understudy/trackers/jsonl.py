"""metrics.jsonl: a line for each record, cut back where a run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.utils.text import json_text

__all__ = ["MetricsFile"]


class MetricsFile:
    """metrics.jsonl: one line per interval and row, one per epoch and row; cut back to where a resumed run stands."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.touch()

    @property
    def size(self) -> int:
        """Bytes so far; a checkpoint keeps it."""
        return self.file.stat().st_size

    def cut_back(self, size: int) -> None:
        """Drop what was written after the checkpoint that a run resumes from."""
        with self.file.open("r+b") as stream:
            stream.truncate(size)

    def write(self, line: Mapping[str, Any]) -> None:
        """Add one line."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json_text(line) + "\n")
