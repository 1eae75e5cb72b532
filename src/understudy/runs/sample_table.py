"""predictions.parquet and disagreements.parquet: a line for each evaluated image, and the images to look at first."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from understudy.data import DataSplits
from understudy.results.schema import Results, Row
from understudy.runs.thumbnails import thumbnail
from understudy.utils.files import write_atomically
from understudy.utils.untrusted import visible

if TYPE_CHECKING:
    import pyarrow

__all__ = ["MOST_THUMBNAILS", "most_apart", "write_disagreements", "write_sample_table"]

MOST_THUMBNAILS = 24
_PER_IMAGE = ("confidence", "label_probability", "kl")  # as the tensors are called


def write_sample_table(tensors: Mapping[str, Tensor], results: Results, data: DataSplits, file: Path) -> None:
    """Write a line for each image of the validation and test splits, with what teacher and students say of it.

    Args:
        tensors: what predictions.safetensors holds.
        results: of the run, which name its rows, seeds and classes.
        data: whose sources name the images.
        file: a parquet file; docs/results.md has its columns. Nothing is written where no class was predicted.
    """
    import pyarrow

    tables = [_table_of(split, tensors, results, data) for split in ("val", "test") if f"{split}/labels" in tensors]
    if tables:
        # A bank may know the teacher on one split alone.
        _write(pyarrow.concat_tables(tables, promote_options="default"), file)


def write_disagreements(tensors: Mapping[str, Tensor], results: Results, data: DataSplits, file: Path) -> None:
    """Write small copies of the images on which the best row's students and the teacher are furthest apart.

    Args:
        tensors: what predictions.safetensors holds.
        results: of the run.
        data: which the images are taken from.
        file: a parquet file. Nothing is written where there is nobody to disagree with, or the images cannot be had.
    """
    import pyarrow

    best, split = results.best_row, results.split
    source = data.test if split == "test" else data.val
    if best is None or source is None or f"index/{split}" not in tensors:
        return
    places = most_apart(tensors, best, split)
    indices = tensors[f"index/{split}"].numpy()[places]
    found = [(int(i), image) for i in indices if (image := thumbnail(source, int(i))) is not None]
    if found:
        columns = {
            "split": [split] * len(found),
            "index": [i for i, _ in found],
            "file": [visible(source.name(i)) for i, _ in found],
            "image": [image for _, image in found],
        }
        _write(pyarrow.table(columns), file)


def most_apart(tensors: Mapping[str, Tensor], row: Row, split: str) -> npt.NDArray[np.int64]:
    """Places of the images on which most of a row's students name another class than the teacher, furthest first.

    How far is the mean divergence over seeds, where it is known, else how sure the students are of their answer.
    """
    keys = [f"{split}/{row.name}/{seed.seed}" for seed in row.seeds]
    teacher = tensors.get(f"{split}/teacher")
    if teacher is None or any(key not in tensors for key in keys):
        return np.empty(0, dtype=np.int64)
    differs = np.mean([(tensors[key] != teacher).numpy() for key in keys], axis=0) > 0.5
    for what in ("kl", "confidence"):
        known = [tensors[f"{what}/{key}"].numpy() for key in keys if f"{what}/{key}" in tensors]
        if len(known) == len(keys):
            apart = np.nan_to_num(np.mean(known, axis=0), nan=-1.0)
            order = np.argsort(-apart, kind="stable")
            return np.asarray(order[differs[order]][:MOST_THUMBNAILS], dtype=np.int64)
    return np.flatnonzero(differs)[:MOST_THUMBNAILS]


def _table_of(split: str, tensors: Mapping[str, Tensor], results: Results, data: DataSplits) -> pyarrow.Table:
    import pyarrow

    labels = tensors[f"{split}/labels"].numpy()
    source = data.test if split == "test" else data.val
    indices = tensors.get(f"index/{split}")
    names = pyarrow.array([results.data.class_name(number) for number in range(results.data.num_classes)])
    columns: dict[str, Any] = {
        "split": pyarrow.array([split] * len(labels)).dictionary_encode().cast(pyarrow.string()),
        "index": pyarrow.array([None] * len(labels) if indices is None else indices.numpy(), pyarrow.int64()),
        "file": pyarrow.array(_file_names(source, indices, len(labels)), pyarrow.string()),
        "label": names.take(pyarrow.array(labels)),
        "label_number": pyarrow.array(labels, pyarrow.int32()),
    }
    for model in _models(results):
        columns |= _columns_of(model, split, tensors, labels, names)
    return pyarrow.table(columns)


def _models(results: Results) -> Iterator[str]:
    yield "teacher"
    for row in results.rows:
        yield from (f"{row.name}/{seed.seed}" for seed in row.seeds)


def _columns_of(
    model: str, split: str, tensors: Mapping[str, Tensor], labels: npt.NDArray[Any], names: pyarrow.Array
) -> dict[str, pyarrow.Array]:
    """What one model says: its class, whether that is right, and how sure it is where that was kept."""
    import pyarrow

    if (kept := tensors.get(f"{split}/{model}")) is None:
        return {}
    said = kept.numpy()
    columns = {
        f"{model}/top1": names.take(pyarrow.array(said, mask=said < 0)),  # -1: an output that is no number
        f"{model}/right": pyarrow.array(said == labels),
    }
    for what in _PER_IMAGE:
        if (values := tensors.get(f"{what}/{split}/{model}")) is not None:
            columns[f"{model}/{what}"] = pyarrow.array(values.numpy(), pyarrow.float32(), from_pandas=True)
    return columns


def _file_names(source: Any, indices: Tensor | None, num_images: int) -> Sequence[str | None]:
    if source is None or indices is None:
        return [None] * num_images
    return [visible(source.name(i)) for i in indices.tolist()]


def _write(table: pyarrow.Table, file: Path) -> None:
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    write_atomically(file, buffer.getvalue())
