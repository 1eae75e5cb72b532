"""What a run finds out by measuring at its start, and keeps to when it is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from understudy.core.config import Config
from understudy.utils import files
from understudy.utils.errors import UserError
from understudy.utils.untrusted import plain_json, text_of

__all__ = ["kept_choice"]

MOST_BYTES = 10_000  # of a written choice

C = TypeVar("C", bound=Config)


def kept_choice(kind: type[C], file: Path, measured: Callable[[], C], *, lost: str) -> C:
    """The choice that a run has written down, or the one that is measured and written down now.

    Args:
        kind: of choice.
        file: where the run keeps it.
        measured: finds it out.
        lost: ends the sentence "FILE does not say any more ..." and says what to set.

    Raises:
        UserError: the file is damaged.
    """
    if not file.exists():
        choice = measured()
        files.write_atomically(file, choice.model_dump_json().encode())
        return choice
    try:
        return kind.read(plain_json(text_of(file, most_bytes=MOST_BYTES)), what=str(file))
    except ValueError as error:
        raise UserError(f"{file} does not say any more {lost}") from error
