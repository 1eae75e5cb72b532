"""The image and the label column of a pyarrow table: which they are, and what their labels mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from understudy.data.sources.found import checked_labels
from understudy.utils.errors import UserError
from understudy.utils.untrusted import plain_json

__all__ = [
    "Columns",
    "are_masks",
    "classes_of",
    "columns_of",
    "features_of",
    "image_column_of",
    "is_unlabelled",
    "labels_of",
]

MASK_COLUMNS = ("mask", "masks", "annotation", "annotations", "label", "labels", "segmentation", "semantic")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the two columns."""

    image: str = "image"
    label: str = "label"


def columns_of(schema: Any, wanted: Columns, where: str, *, masks: bool = False) -> Columns:
    """The wanted columns of a pyarrow schema; in place of a missing one, the only column that holds its kind.

    Args:
        schema: of the table.
        wanted: names that were asked for.
        where: for messages.
        masks: whether the labels may be a column of images with the name of masks; labels of other kinds go before.

    Raises:
        UserError: one is missing, and no other or more than one could stand in for it.
    """
    pictures = _image_columns(schema)
    alike = [name for name in pictures if name.lower() not in MASK_COLUMNS] if masks and len(pictures) > 1 else pictures
    image = _column(schema, wanted.image, "image_column", alike, where)
    labels = [name for name in _label_columns(schema) if name != image]
    if masks and not labels:
        labels = [name for name in pictures if name != image and name.lower() in MASK_COLUMNS]
    return Columns(image, _column(schema, wanted.label, "label_column", labels, where))


def are_masks(schema: Any, columns: Columns) -> bool:
    """Whether the column of labels holds images, and so masks."""
    return columns.label in _image_columns(schema)


def image_column_of(schema: Any, wanted: Columns, where: str) -> str:
    """The wanted column of images, or the only one that holds any.

    Raises:
        UserError: it is missing, and no other or more than one could stand in for it.
    """
    return _column(schema, wanted.image, "image_column", _image_columns(schema), where)


def _column(schema: Any, wanted: str, key: str, alike: Sequence[str], where: str) -> str:
    if wanted in schema.names:
        return wanted
    is_default = wanted == getattr(Columns(), key.removesuffix("_column"))
    if is_default and len(alike) == 1:
        return alike[0]
    several = f" ({' and '.join(alike)} could both be meant)" if is_default and len(alike) > 1 else ""
    there = ", ".join(schema.names)
    raise UserError(f"{where} has no column {wanted!r}; it has: {there}{several}; set data.{key}")


def _image_columns(schema: Any) -> list[str]:
    """Columns that the metadata calls images; failing these, structs with `bytes`, or binary ones."""
    import pyarrow as pa

    features = features_of(schema)
    if described := [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]:
        return described
    found = []
    for field in schema:
        is_struct = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if is_struct or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            found.append(field.name)
    return found


def _label_columns(schema: Any) -> list[str]:
    """Columns that the metadata calls classes; failing these, whole numbers or strings whose name has "label"."""
    import pyarrow as pa

    features = features_of(schema)
    if described := [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]:
        # CIFAR-100 has coarse classes beside the fine ones, which everybody means.
        fine = [name for name in described if name.startswith("fine")]
        return fine if len(fine) == 1 else described
    kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_list)
    named = [field.name for field in schema if any(word in field.name.lower() for word in ("label", "class"))]
    found = [name for name in named if any(is_kind(schema.field(name).type) for is_kind in kinds)]
    fine = [name for name in found if name.startswith("fine")]
    return fine if len(fine) == 1 else found


def features_of(schema: Any) -> dict[str, Any]:
    """Of the `huggingface` metadata, by column; none where that is not what `datasets` writes."""
    try:
        found = plain_json((schema.metadata or {}).get(b"huggingface", b"{}").decode(errors="replace"))
    except ValueError:
        return {}
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, dict) else None
    features = found if isinstance(found, dict) else {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def classes_of(table: Any, columns: Columns) -> tuple[str, ...]:
    """Class names: from the metadata, from labels that are strings, or the numbers."""
    import pyarrow as pa

    names = features_of(table.schema).get(columns.label, {}).get("names")
    if names and isinstance(names, list):
        return tuple(map(str, names))
    labels = table[columns.label]
    if pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type):
        return tuple(sorted(set(labels.drop_null().to_pylist())))
    if not pa.types.is_integer(labels.type):
        several = ", one for each image: several (multi-label classification) are not there yet"
        is_list = pa.types.is_list(labels.type) or pa.types.is_large_list(labels.type)
        words = several if is_list else ""
        raise UserError(f"column {columns.label!r} holds {labels.type}; labels are whole numbers or strings{words}")
    return tuple(str(number) for number in range(1 + max(labels.drop_null().to_pylist(), default=-1)))


def is_unlabelled(table: Any, columns: Columns) -> bool:
    """Whether every label is -1, as the hub marks the test splits of contests."""
    values = set(table[columns.label].unique().to_pylist())
    return values == {-1}


def labels_of(table: Any, columns: Columns, classes: Sequence[str], split: str) -> Tensor:
    """(N,) int64 class numbers in the order of `classes`, whatever the table's own order of names.

    Raises:
        UserError: a label is missing, outside the range, or of a class that train lacks.
    """
    column = table[columns.label]
    if column.null_count:
        raise UserError(f"{column.null_count} rows of {split} have no label in column {columns.label!r}; drop them")
    values = column.to_pylist()
    own = features_of(table.schema).get(columns.label, {}).get("names")
    if own and tuple(own) != tuple(classes):
        checked_labels(torch.tensor(values, dtype=torch.int64), len(own), what=f"{split}, {columns.label!r}")
        values = [own[value] for value in values]
    if values and isinstance(values[0], str):
        number_of = {name: number for number, name in enumerate(classes)}
        if unknown := sorted(set(values) - set(number_of)):
            raise UserError(f"{split} has classes that train lacks: {', '.join(unknown[:10])}")
        values = [number_of[value] for value in values]
    return checked_labels(torch.tensor(values, dtype=torch.int64), len(classes), what=f"{split}, {columns.label!r}")
