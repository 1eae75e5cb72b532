"""A teacher of other classes: which of its outputs stands for each class of the data."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.classifier import classifier_names
from understudy.models.class_names import Names, class_names
from understudy.recipes.schema import TeacherConfig
from understudy.utils.errors import UserError, nearest, shortened_repr
from understudy.utils.untrusted import given_path, plain_json, text_of

__all__ = ["keep_classes_", "resolved_classes"]

MAX_MAP_BYTES = 16_000_000
BY_NAME = "names"  # in place of a file: every class of the data is called as the teacher calls it

_Entries = Mapping[str, int | str] | Sequence[int | str]


def resolved_classes(settings: TeacherConfig, classes: Sequence[str]) -> tuple[int, ...]:
    """The teacher's class for each class of the data, by number.

    Args:
        settings: with `classes`: a file, "names", a list in the order of the data's classes, or a mapping by their
            names. A file is JSON (such a list or mapping), or text: a line for each class in order, or two columns, the
            data's class and the teacher's. A class of the teacher's is its number, or its name where names are known.
        classes: of the data, in order.

    Raises:
        UserError: a class without counterpart, two with the same, a name that the teacher does not have, or names of a
            teacher whose names are not known.
    """
    assert settings.classes is not None
    wanted = _in_order(_stated(settings.classes, classes), classes)
    names = class_names(settings.model, settings.weights) if any(isinstance(entry, str) for entry in wanted) else None
    found = tuple(_number(entry, names, settings) for entry in wanted)
    for i, number in enumerate(found):
        if number in found[:i]:
            first = classes[found.index(number)]
            raise UserError(f"teacher.classes: {first!r} and {classes[i]!r} are both the teacher's class {number}")
    return found


def keep_classes_(module: nn.Module, classes: Sequence[int], images: Tensor) -> int:
    """Let a network tell these of its classes apart, and no others, in this order.

    The rows of its last layer are taken, so that a method which reads that layer sees these classes, too; where the
    output is made otherwise, its columns are.

    Args:
        module: (B,3,H,W) to (B,N) logits; changed in place.
        classes: C numbers below N.
        images: (B,3,H,W), as the module takes them; what it says of them is compared before and after.

    Returns:
        N.

    Raises:
        UserError: a number that the network does not have.
    """
    index = torch.tensor(classes)
    before = _logits(module, images)
    total = before.shape[1]
    if max(classes) >= total or min(classes) < 0:
        wrong = next(number for number in classes if not 0 <= number < total)
        raise UserError(f"teacher.classes: there is no class {wrong}; the teacher has {total}, counted from 0")
    expected = before[:, index.to(before.device)]
    layers = [module.get_submodule(path) for path in classifier_names(module)]
    kept = [dict(layer.named_parameters(recurse=False)) for layer in layers]
    if layers and all(_has_a_row_for_each(layer, total) for layer in layers):
        for layer in layers:
            _take_rows_(layer, index)
        if _is_as_expected(module, images, expected):
            return total
        for layer, parameters in zip(layers, kept, strict=True):
            for name, parameter in parameters.items():
                setattr(layer, name, parameter)
            _set_size_(layer, total)
    module.register_forward_hook(partial(_columns, index))
    return total


def _stated(given: str | _Entries, classes: Sequence[str]) -> _Entries:
    if not isinstance(given, str):
        return given
    return {name: name for name in classes} if given == BY_NAME else _read(given, classes)


def _columns(index: Tensor, module: nn.Module, images: Any, output: Any) -> Any:
    return output[:, index.to(output.device)] if isinstance(output, Tensor) else output


def _has_a_row_for_each(layer: nn.Module, total: int) -> bool:
    if not isinstance(layer, nn.Linear | nn.Conv2d) or (isinstance(layer, nn.Conv2d) and layer.groups > 1):
        return False
    return "weight" in dict(layer.named_parameters(recurse=False)) and len(layer.weight) == total


def _take_rows_(layer: nn.Module, index: Tensor) -> None:
    for name, parameter in list(layer.named_parameters(recurse=False)):
        rows = parameter.detach()[index.to(parameter.device)].clone()
        setattr(layer, name, nn.Parameter(rows, requires_grad=parameter.requires_grad))
    _set_size_(layer, len(index))


def _set_size_(layer: nn.Module, size: int) -> None:
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", size)


def _is_as_expected(module: nn.Module, images: Tensor, expected: Tensor) -> bool:
    try:
        after = _logits(module, images)
    except (RuntimeError, ValueError):  # the layer was not the last one
        return False
    return after.shape == expected.shape and torch.allclose(after, expected, rtol=1e-4, atol=1e-5)


def _logits(module: nn.Module, images: Tensor) -> Tensor:
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            output = module.eval()(images)
    finally:
        for part, mode in modes.items():
            part.training = mode
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise UserError("teacher.classes: the teacher must return (B,C) logits")
    return output


def _read(file: str, classes: Sequence[str]) -> _Entries:
    path = given_path(file, what="teacher.classes")
    if not path.exists():
        close = nearest(file, [BY_NAME])
        raise UserError(
            f"teacher.classes: there is nothing at {file}; give a file, or names where the teacher calls its classes "
            f"as the data does{f' (did you mean {close}?)' if close else ''}"
        )
    text = text_of(path, most_bytes=MAX_MAP_BYTES).removeprefix("\ufeff")
    if path.suffix == ".json":
        return _of_json(text, path)
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return _of_columns(lines, path, classes)


def _of_json(text: str, path: Path) -> _Entries:
    try:
        read = plain_json(text)
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    entries = list(read.values()) if isinstance(read, dict) else read
    if not isinstance(entries, list) or not all(
        isinstance(entry, int | str) and not isinstance(entry, bool) for entry in entries
    ):
        raise UserError(f"{path}: must be a list or a mapping of class numbers or names, got {shortened_repr(read)}")
    return read  # type: ignore[no-any-return]


def _of_columns(lines: Sequence[str], path: Path, classes: Sequence[str]) -> _Entries:
    """A mapping of two columns, or a list of one; a comma may be part of a name."""
    for mark in ("\t", ","):
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark)]
        if rows and all(len(row) == 2 for row in rows):
            begins = 0 if rows[0][0] in classes else 1  # a header
            if path.suffix in (".csv", ".tsv") or all(row[0] in classes for row in rows[begins:]):
                return {row[0]: row[1] for row in rows[begins:]}
    return [line.strip() for line in lines]


def _in_order(stated: _Entries, classes: Sequence[str]) -> list[int | str]:
    if isinstance(stated, Mapping):
        missing = [name for name in classes if name not in stated]
        if missing:
            close = nearest(missing[0], stated)
            raise UserError(
                f"teacher.classes: no counterpart for {len(missing)} of the data's {len(classes)} classes "
                f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''})"
                + (f"; it names {close}" if close else "; leave these classes out of the data, or name theirs")
            )
        return [stated[name] for name in classes]
    if len(stated) != len(classes):
        raise UserError(
            f"teacher.classes: {len(stated)} entries for the data's {len(classes)} classes; give one for each"
        )
    return list(stated)


def _number(entry: int | str, names: Names | None, settings: TeacherConfig) -> int:
    if isinstance(entry, int):
        return entry
    found = list(_called(entry, names or []))
    if len(found) == 1:
        return found[0]
    if not found and entry.isdecimal():
        return int(entry)
    if names is None:
        raise UserError(
            f"teacher.classes: {entry!r} is a name, and the names of {settings.model}'s classes are not known with "
            f"weights {settings.weights}; give their numbers, counted from 0"
        )
    if found:
        raise UserError(f"teacher.classes: {entry!r} is what the teacher calls its classes {found}; give the number")
    close = nearest(entry, [name for called in names for name in called])
    raise UserError(f"teacher.classes: the teacher has no class {entry!r}{f'; did you mean {close}?' if close else ''}")


def _called(entry: str, names: Names) -> Iterator[int]:
    """Classes of that name; of that name in other letters where there is none."""
    exact = [i for i, called in enumerate(names) if entry in called]
    if exact:
        yield from exact
        return
    plain = entry.casefold().replace("_", " ")
    yield from (
        i for i, called in enumerate(names) if any(plain == name.casefold().replace("_", " ") for name in called)
    )
