"""`understudy evaluate`: the student of a run on its own images or on others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from understudy.core.batch import Batch
from understudy.runs.components import Components, open_components
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
    components = open_components(recipe, allow_code=allow_code, say=lambda _: None)
    if tuple(map(visible, components.data.classes)) != classes:
        raise UserError(
            f"{components.data.name} has other classes than the student learnt: {_some(components.data.classes)} here, "
            f"{_some(classes)} there"
        )
    student = student_of(run, allow_code=allow_code).to(components.device)
    batches: Iterable[Batch] = components.eval_loader(split)
    if data is not None and components.data.val_origin.startswith("held out"):  # nothing is trained: all of it counts
        batches = chain(components.eval_loader("train"), batches)
    found = components.task.evaluate({"student": lambda batch: student(batch.images)}, batches, components.device)
    scores = found["student"]
    what = split if data is None else f"{components.data.name}, {_which_images(components, split)}"
    images = f"{what} ({len(scores.per_item):,} images)"
    return f"{run.student}   {images}   {scores.in_words(components.task.metrics)}"


def _which_images(components: Components, split: str) -> str:
    """What is evaluated of data that are not the run's."""
    is_undivided = components.data.val_origin.startswith("held out")
    return "all of it" if is_undivided else components.data.val_origin if split == "val" else "test split"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")
