"""What breaks around a run, in words that say how to go on: a full disk, a lost folder, a dead worker."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from understudy.config import UserError

__all__ = ["faults_in_words"]

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # a write that fails does not name its file
GOES_ON = "then the same command goes on from the last checkpoint"


@contextmanager
def faults_in_words(folder: Path) -> Iterator[None]:
    """Turn what the machine does to a run in `folder` into an error that a person can mend.

    Raises:
        UserError: the folder cannot be written to, or a process that loads data is gone.
    """
    try:
        yield
    except OSError as error:
        reason = _why_not_written(error, folder)
        if reason is None:
            raise
        raise _cannot_write(folder, reason) from None
    except SafetensorError as error:
        if "serializ" not in str(error) or "deserializ" in str(error):  # read, not written
            raise
        raise _cannot_write(folder, str(error).rpartition("error: ")[2]) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        first = str(error).splitlines()[0]
        raise UserError(
            f"a process that loads images is gone ({first}), mostly for want of memory; lower data.workers, {GOES_ON}"
        ) from None


def _cannot_write(folder: Path, reason: str) -> UserError:
    return UserError(f"cannot write to the run folder {folder}: {reason}; mend that, {GOES_ON}")


def _why_not_written(error: OSError, folder: Path) -> str | None:
    """The reason, where the error is about the run folder at all."""
    if isinstance(error, shutil.Error):  # copytree gathers what it met
        return str(error.args[0][0][2])
    if error.filename is None:
        return error.strerror if error.errno in WRITE_ERRORS else None
    return error.strerror if str(error.filename).startswith(str(folder)) else None
