"""Tables with images and the boxes on them, as Hugging Face data sets have them: `objects` of bbox and category."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from understudy.core.boxes import Boxes, BoxesByImage
from understudy.data.sources.base import Source
from understudy.data.sources.boxed import BoxedImage, boxes_of, checked_size, identity_of, is_number
from understudy.data.sources.columns import Columns, features_of, image_column_of
from understudy.data.sources.decoding import UNREADABLE, BadImageError, size_from_header
from understudy.data.sources.found import Found, SplitName
from understudy.data.sources.parquet import ParquetSource, files_by_split, parquet_files
from understudy.utils.errors import UserError
from understudy.utils.text import listed

__all__ = [
    "TableBoxSource",
    "found_in_box_tables",
    "has_box_tables",
    "objects_column",
    "read_box_tables",
    "wanted_of_boxes",
]

BOX = "bbox"
CATEGORIES = ("category", "category_id", "categories", "label", "labels")
CROWDS = ("iscrowd", "is_crowd")


class TableBoxSource(ParquetSource):
    """Encoded images of one table's column, with the boxes on them.

    Args:
        column: as of `ParquetSource`.
        boxes: of all N images, in their order.
        folder: that relative paths start from.
        split: for messages.
    """

    def __init__(self, column: Any, boxes: Boxes, folder: Path, split: str) -> None:
        super().__init__(column, torch.zeros(len(boxes), dtype=torch.int64), folder, split)  # no class of its own
        self.boxes = boxes
        self._by_image = BoxesByImage(boxes)

    def target(self, i: int) -> Boxes:
        """The boxes of image i, crowds among them."""
        return self._by_image.target(i)

    def size(self, i: int) -> tuple[int, int]:
        """As the table or the image's header has it."""
        return self._by_image.size(i)

    def identity(self, i: int) -> bytes:
        """The image and its boxes."""
        return super().identity(i) + identity_of(self.target(i))

    def image(self, i: int) -> Tensor:
        """Decoded now.

        Raises:
            BadImageError: it cannot be read, or has another size than its boxes are for.
        """
        return checked_size(super().image(i), self.size(i), self.name(i))


def objects_column(schema: Any) -> str | None:
    """The one column of a pyarrow schema that holds boxes with their categories; None where there is none.

    Raises:
        UserError: there are several.
    """
    found = [field.name for field in schema if BOX in _parts(field.type) and _category_in(_parts(field.type))]
    if len(found) > 1:
        raise UserError(f"columns {listed(found, 5)} hold boxes; data.label_column says which are meant")
    return found[0] if found else None


def wanted_of_boxes(schema: Any, wanted: Columns, where: str) -> Columns | None:
    """Image and boxes' columns, where the labels that are wanted are boxes, or there are boxes and no labels.

    Raises:
        UserError: no column of images, or several of boxes.
    """
    named = wanted.label in schema.names and BOX in _parts(schema.field(wanted.label).type)
    if wanted.label in schema.names and not named:
        return None
    boxes = wanted.label if named else objects_column(schema)
    return None if boxes is None else Columns(image_column_of(schema, wanted, where), boxes)


def found_in_box_tables(
    tables: Mapping[SplitName, tuple[Any, Columns]], *, name: str, folder: Path, applies_exif: bool = True
) -> Found:
    """The splits of pyarrow tables, each with its columns of images and boxes; others say sizes (`width`, `height`).

    Boxes are x, y, width and height in pixels, as COCO's. Classes are named by the `huggingface` schema metadata, by
    categories that are strings, or by their numbers, which may have holes.

    Raises:
        UserError: what is no box, or a class that train lacks.
    """
    rows = {
        split: [_row(cell) for cell in table[columns.label].to_pylist()] for split, (table, columns) in tables.items()
    }
    classes, numbers = _classes(*tables["train"], rows["train"])
    splits: dict[SplitName, Source] = {}
    notes: list[str] = []
    for split, (table, columns) in tables.items():
        column = table[columns.image]
        bare = ParquetSource(column, torch.zeros(len(column), dtype=torch.int64), folder, split)
        images = [
            _boxed(row, size, numbers, f"{name}, {bare.name(i)}")
            for i, (row, size) in enumerate(
                zip(rows[split], _sizes(table, bare, applies_exif=applies_exif), strict=True)
            )
        ]
        boxes, counts = boxes_of(images)
        splits[split] = TableBoxSource(column, boxes, folder, split)
        notes += counts.said(split)
    return Found(name, classes, splits, notes=tuple(notes))


def has_box_tables(root: Path, wanted: Columns) -> bool:
    """Whether the parquet files at a path have a column of boxes where labels are wanted, or no labels beside it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        files = parquet_files(root)
        return bool(files) and wanted_of_boxes(pq.read_schema(files[0]), wanted, str(root)) is not None
    except (UserError, pa.ArrowInvalid, OSError):  # something else's files, or damaged ones: their reader says so
        return False


def read_box_tables(root: Path, wanted: Columns, *, applies_exif: bool = True) -> Found:
    """The splits of train.parquet, val.parquet, train-00000-of-00002.parquet and so on; others are all train.

    Raises:
        UserError: as `read_parquet` and `found_in_box_tables`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: dict[SplitName, tuple[Any, Columns]] = {}
    for split, files in files_by_split(root).items():
        try:
            schema = pq.read_schema(files[0])
            columns = wanted_of_boxes(schema, wanted, str(files[0]))
            if columns is None:
                raise UserError(f"{files[0]} has no column with {BOX} and category; it has: {', '.join(schema.names)}")
            names = [columns.image, columns.label, *({"width", "height"} & set(schema.names))]
            parts = [pq.ParquetFile(file, memory_map=True).read(columns=names) for file in files]
            tables[split] = pa.concat_tables(parts, promote_options="permissive"), columns
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{root}: the files of {split} cannot be read together: {_first_of(error)}") from None
    folder = root if root.is_dir() else root.parent
    return found_in_box_tables(tables, name=root.stem, folder=folder, applies_exif=applies_exif)


def _first_of(error: Exception) -> str:
    """The first line of an error of pyarrow's."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _parts(kind: Any) -> dict[str, Any]:
    """Fields of a struct of lists, or of a list of structs."""
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}


def _category_in(names: Any) -> str | None:
    return next((name for name in CATEGORIES if name in names), None)


def _row(cell: Any) -> dict[str, list[Any]]:
    """Lists by name, of either form; an image without boxes has none."""
    if isinstance(cell, list):
        return {key: [one.get(key) for one in cell] for key in (cell[0] if cell else ())}
    return {key: list(value) for key, value in (cell or {}).items() if value is not None}


def _classes(
    table: Any, columns: Columns, rows: Sequence[Mapping[str, list[Any]]]
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Names of the classes, and the number of each category."""
    category = _category_in(_parts(table.schema.field(columns.label).type))
    names = _names(features_of(table.schema).get(columns.label), category)
    if names is not None:
        return names, {number: number for number in range(len(names))} | {name: i for i, name in enumerate(names)}
    there = sorted({one for row in rows for one in row.get(str(category), ()) if one is not None})
    if not there:
        raise UserError(
            f"column {columns.label!r} has no box in train, and its classes have no names; nothing to learn"
        )
    return tuple(map(str, there)), {one: number for number, one in enumerate(there)}


def _names(feature: Any, category: str | None) -> tuple[str, ...] | None:
    """Names of a ClassLabel that lies under the category's name, at whatever depth."""
    if not isinstance(feature, Mapping):
        return None
    inner = feature.get(category or "", feature.get("feature"))
    found = inner if isinstance(inner, Mapping) else {}
    if isinstance(names := found.get("names"), list) and names:
        return tuple(map(str, names))
    return _names(found, category) if found else None


def _sizes(table: Any, images: ParquetSource, *, applies_exif: bool) -> Iterator[tuple[int, int]]:
    """Height and width of each image: of the table's columns, or of the image's header."""
    told: list[Any] = [None] * len(images)
    if {"width", "height"} <= set(table.schema.names):
        told = list(zip(*(table[name].to_pylist() for name in ("height", "width")), strict=True))
    for i, size in enumerate(told):
        if size is not None and None not in size:
            yield int(size[0]), int(size[1])
            continue
        try:
            with Image.open(BytesIO(images.encoded(i))) as image:
                yield size_from_header(image, applies_exif=applies_exif)
        except (BadImageError, *UNREADABLE):
            yield 1, 1  # left out when it is read, which says why


def _boxed(row: Mapping[str, list[Any]], size: tuple[int, int], numbers: Mapping[Any, int], where: str) -> BoxedImage:
    boxes, given = row.get(BOX, []), row.get(_category_in(row) or "", [])
    if len(boxes) != len(given):
        raise UserError(f"{where}: {len(boxes)} boxes and {len(given)} categories; each box needs one")
    if wrong := next((box for box in boxes if not _is_box(box)), None):
        raise UserError(f"{where}: {wrong!r:.80} is no box [x, y, width, height]")
    if unknown := sorted({repr(one) for one in given if one not in numbers}):
        raise UserError(f"{where}: category {listed(unknown, 5)} is none of train's")
    crowds = next((row[key] for key in CROWDS if key in row and len(row[key]) == len(boxes)), None)
    areas = row.get("area")
    return BoxedImage(
        path="",
        size=size,
        boxes=[(x, y, x + width, y + height) for x, y, width, height in boxes],
        labels=[numbers[one] for one in given],
        crowd=None if crowds is None else [bool(one) for one in crowds],
        areas=None if areas is None or len(areas) != len(boxes) or None in areas else areas,
    )


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
