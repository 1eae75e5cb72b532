"""Files that name the classes of masks, and may say in which colour each is drawn."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.data.sources.decoding import printable
from understudy.data.sources.mask_table import IGNORED
from understudy.utils.errors import UserError

__all__ = ["NAME_FILES", "NamedClasses", "classes_at", "classes_in"]

NAME_FILES = (
    "classes.txt", "classes.json", "labels.txt", "names.txt", "class_names.txt", "classes.csv", "class_dict.csv",
    "label_colors.txt",
)  # fmt: skip
NO_CLASS = ("void", "ignore", "ignored", "unlabelled", "unlabeled")  # with a colour: pixels that have no class


@dataclass(frozen=True, slots=True)
class NamedClasses:
    """Names of classes in order, and what each colour of a mask means where the file says so."""

    names: tuple[str, ...]
    colours: Mapping[tuple[int, int, int], int] = field(default_factory=dict)  # 255: pixels without a class


def classes_at(*folders: Path) -> NamedClasses | None:
    """What the first such file in some folders says; None where there is none."""
    files = [folder / name for folder in folders for name in NAME_FILES if (folder / name).is_file()]
    return classes_in(files[0]) if files else None


def classes_in(file: Path) -> NamedClasses:
    """The classes that a file names.

    Text: a name a line, or `R G B name`. JSON: names, or objects with "name" and perhaps "color". CSV: columns name,
    r, g, b under a header (CamVid's class_dict.csv).

    Raises:
        UserError: it cannot be read, names a class twice, or gives two classes one colour.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        entries = list({".json": _of_json, ".csv": _of_csv}.get(file.suffix, _of_lines)(text))
    except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
        raise UserError(f"{printable(file)}: no names of classes can be read: {error}") from None
    have_colours = any(colour is not None for _, colour in entries)
    names: list[str] = []
    colours: dict[tuple[int, int, int], int] = {}
    for name, colour in entries:
        is_class = not (have_colours and name.lower() in NO_CLASS)
        if have_colours and colour is None:
            raise UserError(f"{printable(file)}: {printable(name)} has no colour, and others have; give each its own")
        if colour is not None:
            if colour in colours:
                raise UserError(f"{printable(file)}: the colour {colour} stands for two classes; give each its own")
            colours[colour] = len(names) if is_class else IGNORED
        names += [name] if is_class else []
    if not names or len(set(names)) < len(names):
        raise UserError(f"{printable(file)}: names of classes are to be there, and each once")
    return NamedClasses(tuple(map(printable, names)), colours)


_Entry = tuple[str, tuple[int, int, int] | None]


def _of_lines(text: str) -> Iterable[_Entry]:
    """'road', or '128 64 128 road'."""
    for line in text.splitlines():
        parts = line.split(maxsplit=3)
        if len(parts) == 4 and all(part.isdigit() for part in parts[:3]):
            yield parts[3].strip(), _colour(parts[:3])
        elif parts:
            yield line.strip(), None


def _of_json(text: str) -> Iterable[_Entry]:
    """A list of names or objects, that list under "classes" or "categories", or a mapping of numbers to either."""
    read = json.loads(text)
    if isinstance(read, dict):
        read = read.get("classes", read.get("categories", read))
    for entry in read.values() if isinstance(read, dict) else read:
        if not isinstance(entry, dict):
            yield str(entry), None
            continue
        colour = entry.get("color", entry.get("colour"))
        yield str(entry.get("name")), None if colour is None else _colour(colour)


def _of_csv(text: str) -> Iterable[_Entry]:
    """Rows under a header that names the columns."""
    for row in csv.DictReader(text.splitlines(), skipinitialspace=True):
        told = {str(key).strip().lower(): value for key, value in row.items()}
        name = told.get("name") or told.get("class")
        if name is None:
            raise ValueError(f"its header is to name columns name, r, g and b, and has {', '.join(told)}")
        yield name.strip(), _colour([told[key] for key in "rgb"]) if "r" in told else None


def _colour(values: Any) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"a colour is three numbers from 0 to 255, got {[red, green, blue]}")
    return red, green, blue
