"""A folder that one process at a time writes to."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from understudy.config import UserError

__all__ = ["LOCK_FILE", "held"]

LOCK_FILE = ".lock"


@contextmanager
def held(folder: Path, *, what: str) -> Iterator[None]:
    """Keep other processes from writing to `folder` until the block ends, or this process does, however it does.

    The lock is the system's (POSIX fcntl), so that a killed process leaves none behind, and its workers inherit none.
    Where a file system knows no locks, nothing is kept.

    Raises:
        UserError: another process holds it (the text says which), or a link lies in the lock file's place.
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    with os.fdopen(_opened(path), "r+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = file.read(100).strip()
            raise UserError(
                f"{what} {folder} is being written to by another process ({holder or 'unknown'}); wait for it, or stop "
                "it first"
            ) from None
        except OSError:  # such as ENOLCK of a network file system
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path} is a link, and what it points to would be written to; take it away") from None
