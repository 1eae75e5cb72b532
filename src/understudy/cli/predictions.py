"""Predictions as a table, as CSV and as JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from PIL import Image

from understudy.cli.written_pictures import PictureFolder
from understudy.runs.predict import Answer, Prediction
from understudy.utils.errors import UserError, unknown_name
from understudy.utils.untrusted import visible

__all__ = ["PREDICTION_FORMATS", "check_prediction_format", "write_mask", "written_as"]

_HIDDEN = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")  # that JSON leaves as they are


def check_prediction_format(format: str) -> None:
    """Refuse a --format that there is not."""
    if format not in PREDICTION_FORMATS:
        raise UserError(f"--format {format!r} is {unknown_name(format, PREDICTION_FORMATS)}")


def written_as(format: str, predictions: Iterable[Prediction], *, has_teacher: bool) -> Iterator[str]:
    """Lines of a format; those of CSV and JSON as they come, those of a table once all are there."""
    return PREDICTION_FORMATS[format](predictions, has_teacher)


def write_mask(prediction: Prediction, folder: PictureFolder) -> None:
    """Write the class of every pixel as a PNG of the picture's name, with a palette that people can look at.

    Raises:
        UserError: there are none, or as `PictureFolder.write`.
    """
    from understudy.utils.palette import PALETTE

    if prediction.mask is None:
        instead = " but a detector: --boxes FOLDER" if prediction.has_boxes else ""
        raise UserError(f"--masks: {prediction.image} has no mask; its student is no segmenter{instead}")
    image = Image.fromarray(prediction.mask.numpy())
    image.putpalette(PALETTE)
    folder.write(image, prediction.image)


def _table(predictions: Iterable[Prediction], has_teacher: bool) -> Iterator[str]:
    """A line for each picture, its likeliest classes in columns; below the student's those of its teacher."""
    lines: list[list[str]] = []
    for one in predictions:
        who = ["student"] if has_teacher else []
        if one.problem is not None:
            lines.append([visible(one.image), *who, f"cannot be read: {visible(one.problem)}"])
            continue
        lines.append([visible(one.image), *who, *_all_words(one.student)])
        if one.teacher is not None:
            lines.append(["", "teacher", *_all_words(one.teacher)])
        lines += [["", f"teacher of {head}", *_all_words(said)] for head, said in one.further_teachers.items()]
    widths = [max((len(cell) for cell in column), default=0) for column in _columns(lines)]
    for line in lines:
        yield "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()


def _columns(lines: list[list[str]]) -> Iterator[list[str]]:
    """Cells by column; a problem, which takes the rest of its line, widens none."""
    for place in range(max(map(len, lines), default=0)):
        yield [line[place] for line in lines if place < len(line) and not line[place].startswith("cannot be read: ")]


def _all_words(answers: Sequence[Answer]) -> list[str]:
    return [*map(_words, answers)] or ["nothing found"]


def _words(answer: Answer) -> str:
    where = "" if answer.box is None else f" at {' '.join(f'{side:.0f}' for side in answer.box)}"
    return f"{visible(answer.name)} {100 * answer.probability:.1f} %{where}"


def _csv(predictions: Iterable[Prediction], has_teacher: bool) -> Iterator[str]:
    """A row for each picture and rank; one that could not be read has a single row with its problem.

    Of a detector a row for each box with its corners, and a single row of a picture on which nothing was found; beside
    a teacher another column says whose box it is.
    """
    rest = iter(predictions)
    first = next(rest, None)
    if first is not None and first.has_boxes:
        yield from _csv_of_boxes(chain([first], rest), has_teacher)
        return
    further = () if first is None else tuple(first.further_teachers)
    teachers = ["teacher", *(f"teacher_of_{head}" for head in further)] if has_teacher else []
    of_teacher = [f"{teacher}_{what}" for teacher in teachers for what in ("class", "probability")]
    yield _csv_row(["image", "rank", "class", "probability", *of_teacher, "problem"])
    for one in chain([] if first is None else [first], rest):
        if one.problem is not None:
            yield _csv_row([visible(one.image), "", "", "", *([""] * len(of_teacher)), visible(one.problem)])
        for rank, answer in enumerate(one.student):
            said = [] if one.teacher is None else [one.teacher, *one.further_teachers.values()]
            beside = [cell for answers in said for cell in (_cells(answers[rank]) if rank < len(answers) else ["", ""])]
            yield _csv_row([visible(one.image), str(rank + 1), *_cells(answer), *beside, ""])


def _csv_of_boxes(predictions: Iterable[Prediction], has_teacher: bool) -> Iterator[str]:
    of = ["of"] if has_teacher else []
    yield _csv_row(["image", *of, "rank", "class", "probability", "x1", "y1", "x2", "y2", "problem"])
    for one in predictions:
        said = {"student": one.student} | ({} if one.teacher is None else {"teacher": one.teacher})
        for who, answers in said.items():
            begin = [visible(one.image), *([who] if has_teacher else [])]
            if not answers:
                yield _csv_row([*begin, *[""] * 7, visible(one.problem or "")])
            for rank, answer in enumerate(answers):
                corners = [f"{side:.2f}" for side in answer.box or ()]
                yield _csv_row([*begin, str(rank + 1), *_cells(answer), *corners, ""])


def _cells(answer: Answer) -> list[str]:
    return [visible(answer.name), f"{answer.probability:.6f}"]


def _csv_row(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _json_lines(predictions: Iterable[Prediction], has_teacher: bool) -> Iterator[str]:
    """An object for each picture."""
    for one in predictions:
        told: dict[str, object] = {"image": one.image}
        if one.problem is not None:
            told["problem"] = one.problem
        else:
            told["student"] = list(map(_object, one.student))
            if one.teacher is not None:
                told["teacher"] = list(map(_object, one.teacher))
            told |= {f"teacher_of_{head}": list(map(_object, said)) for head, said in one.further_teachers.items()}
        text = json.dumps(told, ensure_ascii=False)
        yield _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _object(answer: Answer) -> dict[str, object]:
    said: dict[str, object] = {"class": answer.name, "probability": round(answer.probability, 6)}
    return said if answer.box is None else {**said, "box": [round(side, 2) for side in answer.box]}


PREDICTION_FORMATS: dict[str, Callable[[Iterable[Prediction], bool], Iterator[str]]] = {
    "table": _table,
    "csv": _csv,
    "jsonl": _json_lines,
}
