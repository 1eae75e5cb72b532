"""What a launcher such as torchrun tells the processes that it starts. Imports no torch; the command line asks it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

__all__ = ["launched_world_size", "said_once"]


def launched_world_size() -> int:
    """How many processes torchrun (or SLURM with its variables) has started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def said_once() -> Iterator[str]:
    """Of the processes that torchrun has started, only the first one's stdout is heard until the block ends.

    Yields:
        What the others' messages on stderr begin with; nothing for the first.
    """
    rank = os.environ.get("RANK", "0")
    if launched_world_size() == 1 or rank == "0":
        yield ""
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield f"process {rank}: "
