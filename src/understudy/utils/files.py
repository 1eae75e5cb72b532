"""Files written whole or not at all, and flushed to the disk."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["refused_by_the_disk", "to_disk", "write_atomically"]

_NO_BUGS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_atomically(file: Path, content: bytes) -> None:
    """Write so that `file` holds either all of `content` or what it held before, even after a power cut.

    Raises:
        OSError: of `file`, which cannot be written.
    """
    beside = file.with_name(f".{file.name}.partial")
    try:
        beside.unlink(missing_ok=True)  # a link there would be written through
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)  # a half takes room where none may be left
        raise OSError(error.errno, error.strerror, str(file)) from None
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


def refused_by_the_disk(error: BaseException) -> str | None:
    """'runs/a/report.html: Read-only file system; ...': what a person can mend about a disk; None of other errors."""
    if not isinstance(error, OSError) or error.errno not in _NO_BUGS:
        return None
    what = f"{error.filename}: " if error.filename is not None else "a file cannot be written: "
    return f"{what}{error.strerror}; make room or allow that, or name another folder"
