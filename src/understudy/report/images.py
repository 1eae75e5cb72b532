"""Single images on the page: those that teacher and student see unlike, and the classes that are confused."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.analysis import outcomes
from understudy.report.run_data import RunData
from understudy.utils.untrusted import visible

__all__ = ["Disagreement", "Mistake", "Unlearnt", "disagreements", "mistakes", "unlearnt"]

_MOST_MISTAKES = 10
_MOST_SHOWN = 24
_MOST_NAMED = 60
_MOST_BYTES = 60_000  # of one image; a thumbnail has 2 to 10 thousand
_MOST_FILE_BYTES = 4_000_000
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_PIXELS = 64  # up to which an image is enlarged without being smoothed


@dataclass(frozen=True, slots=True)
class Mistake:
    """A confusion that the student makes: how often, in images per seed, and how often the teacher makes it."""

    true: str
    said: str
    student_images: float
    teacher_images: int


@dataclass(frozen=True, slots=True)
class Unlearnt:
    """Images that the teacher gets right and the student wrong under every seed."""

    row: str
    images: tuple[int, ...]  # by place in the table of predictions
    names: tuple[str, ...] = ()  # of the first of them; empty where the run does not name its images


@dataclass(frozen=True, slots=True)
class Disagreement:
    """An image that teacher and student see unlike; probabilities in percent, None where they were not kept."""

    source: str  # a data: URI
    is_small: bool
    file: str
    label: str
    teacher: str
    teacher_confidence: float | None
    teacher_is_right: bool
    student: str  # the most frequent answer of the seeds that name another class than the teacher
    student_confidence: float | None  # mean of the seeds that give it
    student_is_right: bool
    seeds: str  # "" of one seed, else "3 of 3 seeds"


def mistakes(run: RunData, row: str) -> list[Mistake]:
    """The most frequent confusions of a row's student, and how often its teacher makes the same one.

    Counted over the pairs that occur, so a thousand classes cost no table of a million.
    """
    predictions = run.predictions
    if predictions is None or row not in predictions.rows:
        return []
    labels = predictions.labels

    def pairs(said: Any) -> Iterator[tuple[int, int]]:
        wrong = np.flatnonzero(said != labels)
        return zip(labels[wrong].tolist(), said[wrong].tolist(), strict=True)

    by_seed = predictions.rows[row]
    counted = Counter(pair for said in by_seed for pair in pairs(said))
    taught = Counter(pairs(predictions.teacher)) if predictions.teacher is not None else Counter[tuple[int, int]]()
    most = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_MOST_MISTAKES]
    name = run.results.data.class_name
    return [
        Mistake(name(true), name(said) if said >= 0 else "no number", count / len(by_seed), taught[true, said])
        for (true, said), count in most
    ]


def unlearnt(run: RunData, row: str) -> Unlearnt | None:
    """Images to look at first: the teacher knows them, the student does not under any seed."""
    predictions = run.predictions
    if predictions is None or predictions.teacher is None or row not in predictions.rows:
        return None
    lists = [
        set(outcomes(said, predictions.teacher, predictions.labels).only_teacher.tolist())
        for said in predictions.rows[row]
    ]
    images = tuple(sorted(set.intersection(*lists)))
    return Unlearnt(row, images, tuple(_names(run, images[:_MOST_NAMED])))


def disagreements(run: RunData, row: str) -> list[Disagreement]:
    """The images of disagreements.parquet, with both answers; none where it is absent or not to be trusted."""
    predictions, certainty = run.predictions, run.certainty
    table = _columns(run.folder / "disagreements.parquet", ["split", "index", "file", "image"], _MOST_FILE_BYTES)
    usable = predictions is not None and predictions.teacher is not None and row in predictions.rows
    if table is None or not usable or certainty is None or certainty.indices is None:
        return []
    places = {int(index): place for place, index in enumerate(certainty.indices)}
    found: list[Disagreement] = []
    for split, index, file, image in zip(*table.values(), strict=True):
        source = _as_uri(image)
        if split == run.results.split and index in places and source is not None and len(found) < _MOST_SHOWN:
            found.append(_disagreement(run, row, places[index], source, str(file), len(image)))
    return found


def _disagreement(run: RunData, row: str, place: int, source: str, file: str, num_bytes: int) -> Disagreement:
    assert run.predictions is not None
    assert run.predictions.teacher is not None
    assert run.certainty is not None
    data, label = run.results.data, int(run.predictions.labels[place])
    said, taught = run.predictions.rows[row][:, place], int(run.predictions.teacher[place])
    others = said[said != taught]  # of most seeds; they may differ among themselves
    answer, votes = Counter((others if len(others) else said).tolist()).most_common(1)[0]
    sure = run.certainty.rows.get(row, {}).get("confidence")
    of_answer = np.empty(0) if sure is None else sure[said == answer, place]
    of_answer = of_answer[np.isfinite(of_answer)]  # a student that diverged is sure of nothing
    own = run.certainty.teacher.get("confidence")
    return Disagreement(
        source=source,
        is_small=source.startswith("data:image/png"),
        file=visible(file),
        label=data.class_name(label),
        teacher=data.class_name(taught) if taught >= 0 else "no number",
        teacher_confidence=None if own is None else 100 * float(own[place]),
        teacher_is_right=taught == label,
        student=data.class_name(answer) if answer >= 0 else "no number",
        student_confidence=100 * float(of_answer.mean()) if len(of_answer) else None,
        student_is_right=answer == label,
        seeds="" if len(said) == 1 else f"{votes} of {len(said)} seeds",
    )


def _as_uri(image: Any) -> str | None:
    """An image as a page may embed it: PNG or JPEG by its first bytes, and small."""
    if not isinstance(image, bytes) or len(image) > _MOST_BYTES:
        return None
    kind = next((kind for start, kind in _KINDS.items() if image.startswith(start)), None)
    return None if kind is None else f"data:{kind};base64,{base64.b64encode(image).decode()}"


def _names(run: RunData, places: tuple[int, ...]) -> list[str]:
    """File names of images by place in the predictions of the headline's split."""
    table = _columns(run.folder / "predictions.parquet", ["split", "file"])
    if table is None:
        return []
    names = [file for split, file in zip(*table.values(), strict=True) if split == run.results.split]
    if any(place >= len(names) or not isinstance(names[place], str) for place in places):
        return []
    return [visible(names[place]) for place in places]


def _columns(file: Path, names: list[str], most_bytes: int | None = None) -> dict[str, npt.NDArray[Any]] | None:
    """Columns of a parquet file; None where it cannot be read or is larger than any run writes."""
    if not file.is_file() or (most_bytes is not None and file.stat().st_size > most_bytes):
        return None
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file, columns=names)
        return {name: table.column(name).to_pylist() for name in names}
    except (pyarrow.ArrowException, KeyError, OSError, ValueError):  # what is no parquet, or another one
        return None
