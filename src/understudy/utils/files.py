"""Files written whole or not at all, and flushed to the disk."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["to_disk", "write_atomically"]


def write_atomically(file: Path, content: bytes) -> None:
    """Write so that `file` holds either all of `content` or what it held before, even after a power cut."""
    beside = file.with_name(f".{file.name}.partial")
    beside.unlink(missing_ok=True)  # a link there would be written through
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        beside.unlink(missing_ok=True)  # a half takes room where none may be left
        raise
    beside.replace(file)
    to_disk(file.parent)


def to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, would outlive a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
