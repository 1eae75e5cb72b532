"""What breaks around a run, in words that say how to go on: a full disk, a lost folder, a dead worker, no memory."""

from __future__ import annotations

import errno
import multiprocessing
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from understudy.utils.errors import UserError
from understudy.utils.out_of_memory import out_of_memory

__all__ = ["readable_errors", "says_what_no_longer_fits"]

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # a write that fails does not name its file


@contextmanager
def readable_errors(folder: Path, *, what: str = "run folder", last: str = "checkpoint") -> Iterator[None]:
    """Turn what the machine does to a run in `folder` into an error that a person can mend.

    Args:
        folder: that is written to.
        what: it is.
        last: what the same command goes on from.

    Raises:
        UserError: the folder cannot be written to, a process that loads data is gone, or memory does not suffice.
    """
    goes_on = f"then the same command goes on from the last {last}"

    def cannot_write(reason: str) -> UserError:
        return UserError(f"cannot write to the {what} {folder}: {reason}; mend that, {goes_on}")

    try:
        yield
    except OSError as error:
        reason = _why_not_written(error, folder)
        if reason is None:
            raise
        raise cannot_write(reason) from None
    except SafetensorError as error:
        if "serializ" not in str(error) or "deserializ" in str(error):  # read, not written
            raise
        raise cannot_write(str(error).rpartition("error: ")[2]) from None
    except (MemoryError, RuntimeError) as error:
        if said := out_of_memory(error):
            raise UserError(said) from error
        if "DataLoader worker" not in str(error):
            raise
        first = str(error).splitlines()[0]
        raise UserError(f"a process that loads images is gone ({first}), {_why_gone()}, {goes_on}") from None


@contextmanager
def says_what_no_longer_fits(folder: Path) -> Iterator[None]:
    """Around the loading of a checkpoint, whose tensors fit no network that was changed since it was written.

    Raises:
        UserError: code of a person's own, a network or a method, is another than when the run was stopped.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        first, *rest = str(error).splitlines() or [""]
        if "loading state_dict" not in first and "parameter group" not in first:
            raise
        what = (rest[0] if rest else first).strip()
        raise UserError(
            f"the run in {folder} was stopped with another network or method than there is now ({what[:200]}): its "
            "code was changed in between. Put it back to go on, or begin anew with another --out or --overwrite"
        ) from error


def _why_gone() -> str:
    if multiprocessing.get_start_method() == "fork":
        return "mostly for want of memory; lower data.workers"
    return (
        "as processes are not forked here, mostly since the script that they run again has no "
        "'if __name__ == \"__main__\":' around its calls, else for want of memory; put them below such a line, or "
        "lower data.workers"
    )


def _why_not_written(error: OSError, folder: Path) -> str | None:
    """The reason, where the error is about the run folder at all."""
    if isinstance(error, shutil.Error):  # copytree gathers what it met
        return str(error.args[0][0][2])
    if error.filename is None:
        return error.strerror if error.errno in WRITE_ERRORS else None
    return error.strerror if Path(str(error.filename)).is_relative_to(folder) else None
