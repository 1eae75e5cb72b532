"""`understudy evaluate`: the student of a run on its own images or on others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from understudy.core.batch import Batch
from understudy.runs.components import Parts, open_parts
from understudy.runs.folder import RunFolder
from understudy.runs.reopen import recipe_of, refuse_what_python_made, results_of, student_of
from understudy.utils.errors import UserError
from understudy.utils.untrusted import visible

__all__ = ["evaluate"]


def evaluate(run: RunFolder, *, split: str, data: str | None, allow_code: bool) -> str:
    """Scores of the run's student in words."""
    if split not in ("val", "test"):
        raise UserError(f"--split {split!r}: there are val and test")
    refuse_what_python_made(run)
    recipe, classes = recipe_of(run), results_of(run).data.classes
    # What it started from is not needed any more.
    bare: dict[str, object] = {
        "student": recipe.student.model_copy(update={"weights": "none"}),
        "teacher": None,
        "bank": None,
        "method": (),
        "rows": (),
    }
    data = None if data == recipe.data.root else data  # its own, and so its own split
    if data is not None:
        of_the_run = dict.fromkeys(("train_rows", "val_rows", "per_class", "fraction", "unlabelled"))
        bare["data"] = recipe.data.model_copy(update={**of_the_run, "streaming": False, "root": data})
    recipe = recipe.model_copy(update=bare)
    parts = open_parts(recipe, allow_code=allow_code, say=lambda _: None)
    if tuple(map(visible, parts.data.classes)) != classes:
        raise UserError(
            f"{parts.data.name} has other classes than the student learnt: {_some(parts.data.classes)} here, "
            f"{_some(classes)} there"
        )
    student = student_of(run, allow_code=allow_code).to(parts.device)
    batches: Iterable[Batch] = parts.eval_loader(split)
    if data is not None and parts.data.val_origin.startswith("held out"):  # nothing is trained: all of it counts
        batches = chain(parts.eval_loader("train"), batches)
    found = parts.task.evaluate({"student": lambda batch: student(batch.images)}, batches, parts.device)
    scores = found["student"]
    top5 = "" if scores.top5 is None else f"   top-5 {scores.top5:.2f} %"
    counts = scores.labels.bincount()
    is_even = len(set(counts[counts > 0].tolist())) == 1
    balanced = "" if is_even else f"   balanced {scores.balanced_accuracy:.2f} %"
    what = split if data is None else f"{parts.data.name}, {_which_images(parts, split)}"
    images = f"{what} ({len(scores.labels):,} images)"
    return f"{run.student}   {images}   top-1 {scores.top1:.2f} %{top5}{balanced}   loss {scores.loss:.4f}"


def _which_images(parts: Parts, split: str) -> str:
    """What is evaluated of data that are not the run's."""
    is_undivided = parts.data.val_origin.startswith("held out")
    return "all of it" if is_undivided else parts.data.val_origin if split == "val" else "test split"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")
