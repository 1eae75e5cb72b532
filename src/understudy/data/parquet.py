"""Parquet files with an image and a label column, as Hugging Face `datasets` writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.config import UserError
from understudy.data.found import Found, SplitName, checked_labels, split_name
from understudy.data.images import BadImageError, decoded
from understudy.data.sources import free_memory_bytes

__all__ = ["ParquetSource", "parquet_files", "read_parquet"]


class ParquetSource:
    """Encoded images of one table's column, decoded when asked for.

    Args:
        column: pyarrow column of {"bytes", "path"} structs, bytes, or paths.
        labels: (N,) int64.
        folder: that relative paths start from.
        split: for messages.
    """

    def __init__(self, column: Any, labels: Tensor, folder: Path, split: str) -> None:
        self.labels = labels
        self._column = column
        self._folder = folder
        self._split = split

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> Tensor:
        """Decoded now."""
        cell = self._column[i].as_py()
        data = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
        if isinstance(data, str):
            try:
                data = (self._folder / data).read_bytes()
            except OSError as error:
                raise BadImageError(f"{self.name(i)}: {data!s}: {error.strerror}") from None
        return decoded(data or b"", self.name(i))

    def name(self, i: int) -> str:
        """Split, row and, where the file knows one, path."""
        cell = self._column[i].as_py()
        path = cell.get("path") if isinstance(cell, dict) else None
        return f"row {i} of {self._split}" + (f" ({path})" if path else "")


def parquet_files(root: Path) -> list[Path]:
    """The parquet files at a path: itself, those in the folder, or those in its `data` folder (as on the hub)."""
    if root.is_file():
        return [root] if root.suffix == ".parquet" else []
    return sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))


def read_parquet(root: Path, *, image_column: str, label_column: str) -> Found:
    """The splits of train.parquet, val.parquet, train-00000-of-00002.parquet and so on; others are all train.

    Class names come from the `huggingface` schema metadata, from labels that are strings, or are the numbers.

    Raises:
        UserError: no such files, a column that is missing (with those there are), or a label outside the range.
    """
    files = _files_by_split(root)
    tables = {split: _table(paths, image_column, label_column) for split, paths in files.items()}
    classes = _classes(tables["train"], label_column)
    folder = root if root.is_dir() else root.parent
    splits = {
        split: ParquetSource(table[image_column], _labels(table, label_column, classes, split), folder, split)
        for split, table in tables.items()
    }
    return Found(root.stem, classes, splits)


def _files_by_split(root: Path) -> dict[SplitName, list[Path]]:
    files: dict[SplitName, list[Path]] = {}
    found = parquet_files(root)
    for path in found:
        if split := split_name(re.split(r"[-_.]", path.name)[0]):
            files.setdefault(split, []).append(path)
    if len(found) == 1 or (found and not files):
        return {"train": found}
    if "train" not in files:
        there = ", ".join(path.name for path in found) or "no parquet file"
        raise UserError(f"{root} has no train.parquet or train-*.parquet; it has: {there}")
    return files


def _table(paths: Sequence[Path], image_column: str, label_column: str) -> Any:
    """A pyarrow table of the two columns, in memory, or mapped from disk where memory would not do."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        try:
            names = pq.read_schema(path).names
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is no parquet file: {str(error).splitlines()[0]}") from None
        for key, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in names:
                raise UserError(f"{path} has no column {column!r}; it has: {', '.join(names)}; set data.{key}")
    if sum(path.stat().st_size for path in paths) > free_memory_bytes() // 2:
        import datasets

        files = [str(path) for path in paths]
        return datasets.Dataset.from_parquet(files, columns=[image_column, label_column]).data.table
    return pa.concat_tables([pq.read_table(path, columns=[image_column, label_column]) for path in paths])


def _classes(train: Any, label_column: str) -> tuple[str, ...]:
    import pyarrow as pa

    described = json.loads((train.schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get(label_column, {}).get("names")
    if names:
        return tuple(names)
    labels = train[label_column]
    if pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type):
        return tuple(sorted(set(labels.drop_null().to_pylist())))
    if not pa.types.is_integer(labels.type):
        raise UserError(f"column {label_column!r} holds {labels.type}; labels are whole numbers or strings")
    return tuple(str(number) for number in range(1 + max(labels.drop_null().to_pylist(), default=-1)))


def _labels(table: Any, label_column: str, classes: tuple[str, ...], split: str) -> Tensor:
    column = table[label_column]
    if column.null_count:
        raise UserError(f"{column.null_count} rows of {split} have no label in column {label_column!r}; drop them")
    values = column.to_pylist()
    if values and isinstance(values[0], str):
        number_of = {name: number for number, name in enumerate(classes)}
        if unknown := sorted(set(values) - set(number_of)):
            raise UserError(f"{split} has classes that train lacks: {', '.join(unknown[:10])}")
        values = [number_of[value] for value in values]
    return checked_labels(torch.tensor(values, dtype=torch.int64), len(classes), what=f"{split}, {label_column!r}")
