"""Parquet files with an image and a label column, as Hugging Face `datasets` writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from understudy.data.cache import free_memory_bytes
from understudy.data.sources.base import EncodedSource, Source
from understudy.data.sources.columns import Columns, are_masks, classes_of, columns_of, is_unlabelled, labels_of
from understudy.data.sources.decoding import BadImageError, printable
from understudy.data.sources.found import Found, SplitName, split_name
from understudy.data.sources.mask_classes import classes_at
from understudy.data.sources.mask_pairs import MOST_CLASSES, settled_masks
from understudy.data.sources.mask_table import MaskTable
from understudy.data.sources.masked import MaskedCells
from understudy.data.sources.readers import Reader
from understudy.utils.errors import UserError
from understudy.utils.machine import hand_back_memory

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["ParquetSource", "files_by_split", "found_in_tables", "parquet_files", "read_parquet"]


class ParquetSource(EncodedSource):
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

    def encoded(self, i: int) -> bytes:
        """From the table, or from the file that it names."""
        cell = self._column[i].as_py()
        data = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
        if isinstance(data, str):
            try:
                data = (self._folder / data).read_bytes()
            except OSError as error:
                raise BadImageError(f"{self.name(i)}: {data!s}: {error.strerror}") from None
        return data or b""

    def num_bytes(self, i: int) -> int:
        """As the table says, without a copy of them; of a file that it names, as it is read."""
        import pyarrow as pa

        cell = self._column[i]
        data = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if isinstance(data, pa.BinaryScalar) and not isinstance(data, pa.StringScalar) and data.is_valid:
            return int(data.as_buffer().size)
        return super().num_bytes(i)

    def name(self, i: int) -> str:
        """Split, row and, where the file knows one, path."""
        cell = self._column[i]
        path = cell.get("path") if isinstance(cell, Mapping) else None
        path = path.as_py() if path is not None else None  # the path alone: of the bytes it would be a copy
        return f"row {i} of {self._split}" + (f" ({printable(path)})" if path else "")


def parquet_files(root: Path) -> list[Path]:
    """The parquet files at a path: itself, those in the folder, or those in its `data` folder (as on the hub)."""
    if root.is_file():
        return [root] if root.suffix == ".parquet" else []
    found = sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))
    return [path for path in found if path.is_file()]


def read_parquet(root: Path, config: DataConfig) -> Found:
    """The splits of train.parquet, val.parquet, train-00000-of-00002.parquet and so on; others are all train.

    Where a column of these names is missing and one other holds images or labels, that one is taken (CIFAR on the
    hub: `img` and `fine_label`). Class names come from the `huggingface` schema metadata, from labels that are
    strings, or are the numbers.

    Raises:
        UserError: no such files, a column that is missing (with those there are), files of one split that do not go
            together, or a label outside the range.
    """
    wanted = Columns(config.image_column, config.label_column)
    tables = {split: _table(paths, wanted) for split, paths in files_by_split(root).items()}
    return found_in_tables(tables, config, name=root.stem, folder=root if root.is_dir() else root.parent)


def found_in_tables(
    tables: Mapping[SplitName, tuple[Any, Columns]], config: DataConfig, *, name: str, folder: Path
) -> Found:
    """The splits of pyarrow tables, each with the names of its two columns.

    Raises:
        UserError: as `read_parquet`.
    """
    table, columns = tables["train"]
    if are_masks(table.schema, columns):
        return _found_masks(tables, config, name=name, folder=folder)
    classes = classes_of(*tables["train"])
    splits: dict[SplitName, Source] = {}
    notes = []
    for split, (table, columns) in tables.items():
        if split == "test" and is_unlabelled(table, columns):
            notes.append(f"the test split of {name} has no labels and is left out")
            continue
        splits[split] = ParquetSource(table[columns.image], labels_of(table, columns, classes, split), folder, split)
    return Found(name, classes, splits, notes=tuple(notes))


def _found_masks(
    tables: Mapping[SplitName, tuple[Any, Columns]], config: DataConfig, *, name: str, folder: Path
) -> Found:
    """Of tables with a column of images and one of masks."""
    sources = {}
    notes = []
    for split, (table, columns) in tables.items():
        if missing := table[columns.label].null_count:
            if split == "test":
                notes.append(f"the test split of {name} has no masks and is left out")
                continue
            raise UserError(f"{missing} rows of {split} have no mask in column {columns.label!r}; drop them")
        empty = torch.zeros(len(table), dtype=torch.int64)
        pictures, masks = (
            ParquetSource(table[column], empty, folder, split) for column in (columns.image, columns.label)
        )
        sources[split] = MaskedCells(pictures, masks, MaskTable(MOST_CLASSES))
    found = settled_masks(name, sources, config, named=classes_at(folder) if folder.is_dir() else None)
    return replace(found, notes=(*found.notes, *notes))


def files_by_split(root: Path) -> dict[SplitName, list[Path]]:
    """The parquet files at a path by split, of their names; a lone one is train.

    Raises:
        UserError: none is train.
    """
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


def _table(paths: Sequence[Path], wanted: Columns) -> tuple[Any, Columns]:
    """A pyarrow table of the two columns, in memory, or mapped from disk where memory would not do."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, columns = _common_schema(paths, wanted)
    if sum(path.stat().st_size for path in paths) > free_memory_bytes() // 2:
        import datasets

        features = datasets.Features.from_arrow_schema(schema)  # else those of the first file, for all
        files = [str(path) for path in paths]
        return datasets.Dataset.from_parquet(files, columns=schema.names, features=features).data.table, columns
    # ParquetFile rather than read_table, which loads Arrow's query engine and keeps twice the table in buffers.
    tables = [pq.ParquetFile(path, memory_map=True).read(columns=schema.names) for path in paths]
    table = pa.concat_tables(tables, promote_options="permissive")
    hand_back_memory()
    return table, columns


def _common_schema(paths: Sequence[Path], wanted: Columns) -> tuple[Any, Columns]:
    """The schema of the two columns that fits all files of a split: of integers, the widest.

    Raises:
        UserError: a file is no parquet file, or has other column names, kinds of values or class names than the first.
    """
    import pyarrow as pa

    schema, columns = _schema(paths[0], wanted)
    for path in paths[1:]:
        its_schema, its_columns = _schema(path, wanted)
        if its_columns != columns:
            raise UserError(
                f"{path} has the columns {its_columns.image} and {its_columns.label}, but {paths[0]} {columns.image} "
                f"and {columns.label}; the files of one split need the same"
            )
        _check_labels(path, its_schema, paths[0], schema, columns)
        try:
            schema = pa.unify_schemas([schema, its_schema], promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            problem = str(error).splitlines()[0]
            raise UserError(
                f"{path} does not go with {paths[0]}: {problem}; the files of one split need the same"
            ) from None
    return schema, columns


def _schema(path: Path, wanted: Columns) -> tuple[Any, Columns]:
    """The pyarrow schema of a file's two columns, with the metadata of all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is no parquet file: {str(error).splitlines()[0]}") from None
    columns = columns_of(schema, wanted, str(path), masks=True)
    return pa.schema([schema.field(columns.image), schema.field(columns.label)], schema.metadata), columns


def _check_labels(path: Path, schema: Any, first_path: Path, first: Any, columns: Columns) -> None:
    """Labels of one file must mean what they mean in the first, as far as both say what they mean."""
    import pyarrow as pa

    kind, first_kind = (one.field(columns.label).type for one in (schema, first))
    are_numbers = pa.types.is_integer(kind)
    if are_numbers != pa.types.is_integer(first_kind):
        raise UserError(
            f"column {columns.label!r} holds {kind} in {path}, but {first_kind} in {first_path}; the files of one "
            "split need the same"
        )
    if not are_numbers:
        return  # strings mean themselves
    names, first_names = (classes_of(one.empty_table(), columns) for one in (schema, first))  # of the metadata
    if names and first_names and names != first_names:
        i, pair = next((i, pair) for i, pair in enumerate(zip_longest(names, first_names)) if pair[0] != pair[1])
        raise UserError(
            f"{path} calls class {i} {pair[0]!r}, but {first_path} {pair[1]!r}; the files of one split need the same"
        )


def _task_of_columns(file: Path, wanted: Columns) -> str:
    """The task of a parquet file by the kind of its column of labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    columns = columns_of(schema, wanted, str(file), masks=True)
    return "segmentation" if are_masks(schema, columns) else "classification"


class _Parquet(Reader, name="parquet"):
    """Files of parquet, with images in a column."""

    asked = 2

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether there are any."""
        return bool(parquet_files(root))

    @classmethod
    def task_of(cls, root: Path, config: DataConfig) -> str:
        """By the kind of the column of labels."""
        return _task_of_columns(files_by_split(root)["train"][0], Columns(config.image_column, config.label_column))

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """See `read_parquet`."""
        return read_parquet(root, config)
