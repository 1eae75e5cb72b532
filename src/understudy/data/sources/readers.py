"""Readers: each knows one form in which images lie at data.root, and opens it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from understudy.data.sources.found import Found
from understudy.utils.errors import UserError, unknown_name
from understudy.utils.installed import register

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["AUTO", "READERS", "Reader", "format_named", "in_order"]

AUTO = "auto"  # the format of a recipe that leaves it to what lies there
READERS: dict[str, type[Reader]] = {}


class Reader:
    """Base of every reader. A subclass is registered by `class Mine(Reader, name="mine")`, the word for data.format.

    Attributes:
        asked: readers of lower numbers are asked first whether a root is theirs; those of other packages before ours.
        takes_names: under its own `data.format`, a root may be a name instead of a path, so that nothing need be there.
        task: what its images are for, as far as that is known before they are opened.
    """

    name: ClassVar[str]
    asked: ClassVar[int] = 0
    takes_names: ClassVar[bool] = False
    task: ClassVar[str] = "classification"

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            register(READERS, name, cls, kind="a data format")
            cls.name = name

    @classmethod
    def is_name(cls, root: str) -> bool:
        """Whether a root, as it is written, is a name that this reader knows, whatever may lie there."""
        return False

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether what lies at the root, a folder or a file, is in this form; False: only by `data.format`."""
        return False

    @classmethod
    def task_of(cls, root: Path, config: DataConfig) -> str:
        """The task that what lies at the root is for, as far as that can be known without opening it.

        Raises:
            UserError: it cannot be used.
        """
        return cls.task

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """The splits at the root; "train" is among them.

        Raises:
            UserError: it cannot be used; the text says what was found and what to do.
        """
        raise NotImplementedError(f"data format {cls.name!r} defines no open")


def in_order() -> list[type[Reader]]:
    """All readers, the ones that are asked first in front."""
    return sorted(READERS.values(), key=lambda reader: reader.asked)


def format_named(name: str) -> str:
    """The name, if it is "auto" or a reader's.

    Raises:
        UserError: no such format; the text names the nearest one, or lists them.
    """
    if name != AUTO and name not in READERS:
        raise UserError(f"{name!r} is {unknown_name(name, [AUTO, *READERS])}")
    return name
