"""A folder that one process at a time writes to."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from understudy.utils.errors import UserError

__all__ = ["LOCK_FILE", "held", "is_held"]

LOCK_FILE = ".lock"
PATIENCE_SECONDS = 0.1  # for a holder that is just taking its lock file away
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems, network ones above all


@contextmanager
def held(folder: Path, *, what: str) -> Iterator[None]:
    """Keep others from writing to `folder` until the block ends, or this process does, however it does.

    The lock is the system's (flock, by filelock), so that a killed process leaves none behind, and its workers inherit
    none. Where a file system knows no locks, nothing is kept: a file that merely lies there would outlive a kill.

    Raises:
        UserError: another process holds it (the text says which), or a link lies in the lock file's place.
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    lock = FileLock(path, timeout=PATIENCE_SECONDS, poll_interval=0.02, fallback_to_soft=False, on_acquired=_sign)
    if not _acquired(lock, path, f"{what} {folder}"):
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still ours
        lock.release()


def is_held(folder: Path) -> bool | None:
    """Whether a process keeps `folder` for itself; None where the system does not tell. Nobody is disturbed."""
    try:
        import fcntl

        with (folder / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for a moment, within `PATIENCE_SECONDS` of who wants it
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return None
    return False


def _acquired(lock: FileLock, path: Path, name: str) -> bool:
    """Take the lock; False where the file system has none to give."""
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{name} is being written to by another process ({_holder(path) or 'unknown'}); wait for it, or stop "
            "it first"
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path} is a link, and what it points to would be written to; take it away") from None
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _sign(file: int) -> None:
    """Write who holds the lock into its file."""
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)


def _holder(path: Path) -> str:
    """Who holds the lock, as it wrote; nothing where that cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(100).strip()
    except OSError:
        return ""
