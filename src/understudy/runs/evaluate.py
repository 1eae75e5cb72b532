"""`understudy evaluate`: the student of a run on its own images or on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from torch import nn

from understudy.core.batch import Batch
from understudy.core.image_size import ImageSize
from understudy.data import DataSplits, EvalLoader, Source, eval_loader
from understudy.data.sources.base import rows_of
from understudy.data.sources.found import BadImages
from understudy.data.sources.renumbered import renumbered
from understudy.distributed.launch import current, device_named
from understudy.recipes.schema import Recipe
from understudy.runs.data_task import open_data_of, refuse_other_task, refuse_root_of_other_task
from understudy.runs.folder import RunFolder
from understudy.runs.networks import LARGE_IMAGE_SIZE
from understudy.runs.reopen import made_by_python, recipe_of, results_of, student_network_of
from understudy.tasks import TASKS, Evaluation
from understudy.utils.errors import UserError
from understudy.utils.text import listed, plural
from understudy.utils.untrusted import visible

__all__ = ["Evaluated", "Images", "evaluate", "images_of"]

SHOWN_CLASSES = 5


@dataclass(frozen=True)
class Images:
    """Images that a run's student is measured on, under the student's class numbers."""

    recipe: Recipe
    data: DataSplits
    splits: Mapping[str, Source]
    image_size: ImageSize
    which: str  # in words
    counts_all: bool  # whether train and val are one: nothing is trained on either
    num_classes: int  # that the student knows
    class_names: Sequence[str]  # of these, by number

    def loader(self, split: str) -> EvalLoader:
        """Batches of a split in stored order, not augmented."""
        if split not in self.splits:
            raise UserError(f"{self.data.name} has no {split} split")
        source = self.splits[split]
        if split == "train" and self.data.num_unlabelled:
            source = rows_of(source, (source.labels >= 0).nonzero().flatten())
        device = device_named(self.recipe.device)
        return eval_loader(source, self.recipe.data, image_size=self.image_size, device=device)

    def loaders(self, split: str) -> list[EvalLoader]:
        """Those of all images that count under a split's name."""
        return [self.loader(name) for name in self.counted(split)]

    def counted(self, split: str) -> tuple[str, ...]:
        """The splits whose images count under a split's name."""
        return ("train", "val") if self.counts_all else (split,)


@dataclass(frozen=True)
class Evaluated:
    """Scores of a run's student on some images."""

    scores: Evaluation
    text: str  # in words, with what they are of


def evaluate(
    run: RunFolder,
    *,
    split: str,
    data: str | None,
    allow_code: bool,
    module: nn.Module | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Evaluated:
    """Score the run's student.

    Args:
        run: a finished run.
        split: val or test.
        data: a folder or whatever else `data.root` may be; its classes are all or some of the student's. None: the
            run's own data.
        allow_code: let the run name a factory in somebody's own code.
        module: as in `student_network_of`.
        say: is told what was left out.

    Raises:
        UserError: no such images, or a class that the student does not know.
    """
    if split not in ("val", "test"):
        raise UserError(f"--split {split!r}: there are val and test")
    network = student_network_of(run, allow_code=allow_code, module=module)
    images = images_of(run, data, split=split, say=say)
    device = device_named(images.recipe.device)
    student = network.prepared.eval().to(device)
    loaders = images.loaders(split)
    batches: Iterable[Batch] = chain(*loaders)
    task = TASKS[images.recipe.task].for_data(images.num_classes, **images.recipe.task_settings)
    with current(device):
        scores = task.evaluate({"student": lambda batch: student(batch.images)}, batches, device)["student"]
    if skipped := [name for loader in loaders for name in loader.skipped]:
        say(BadImages(skipped, ("image cannot be read", "images cannot be read")).note())
    what = f"{images.which} ({len(scores.per_item):,} images)"
    lines = [f"{run.student}   {what}   {scores.in_words(task.metrics)}"]
    return Evaluated(scores, "\n".join([*lines, *scores.classes_in_words(list(map(visible, images.class_names)))]))


def images_of(
    run: RunFolder, data: str | None, *, split: str = "val", say: Callable[[str], None] = lambda _: None
) -> Images:
    """The images of a run, or of another place, as its student is shown them.

    Args:
        run: a finished run.
        data: where others lie; None: the run's own.
        split: that is going to be asked for, for the words.
        say: is told what a person should know of others.

    Raises:
        UserError: as `evaluate`.
    """
    results, recipe = results_of(run), recipe_of(run)
    if data is None and made_by_python(run):
        raise UserError(
            f"{run.path} was made by understudy.distill from data sets in Python, which cannot be opened again from "
            "here; name images: --data FOLDER (data=... in Python)"
        )
    is_other = data is not None and data != recipe.data.root
    if is_other:
        of_the_run = dict.fromkeys(("train_rows", "val_rows", "per_class", "fraction", "unlabelled"))
        recipe = recipe.with_data(**of_the_run, streaming=False, root=data)
        refuse_root_of_other_task(recipe)
    found = _opened_of_others(recipe) if is_other else open_data_of(recipe)
    for note in found.notes if is_other else ():
        say(note)
    if is_other:
        refuse_other_task(recipe, found)
    known = results.data.classes or tuple(str(number) for number in range(results.data.num_classes))
    numbers = _numbers(found, known)
    parts = {"train": found.train, "val": found.val, **({} if found.test is None else {"test": found.test})}
    # A student of whom nobody wrote down at which size: as a run would choose.
    size = (results.rows[0].student.image_size if results.rows else None) or (
        recipe.data.image_size or found.native_size or found.window or LARGE_IMAGE_SIZE
    )
    is_alike = numbers == list(range(len(known)))
    is_undivided = is_other and found.val_origin.startswith("held out")  # nothing is trained: all of it counts
    which = "all of it" if is_undivided else found.val_origin if split == "val" else "test split"
    some = "" if len(found.classes) == len(known) else f", {len(found.classes)} of its {len(known)} classes"
    return Images(
        recipe=recipe,
        data=found,
        splits=parts if is_alike else {name: renumbered(source, numbers) for name, source in parts.items()},
        image_size=size,
        which=f"{found.name}, {which}{some}" if is_other else split,
        counts_all=is_undivided,
        num_classes=len(known),
        class_names=known,
    )


def _opened_of_others(recipe: Recipe) -> DataSplits:
    """Data that nothing is trained on: of a few images, of which a tenth would be none, half are called val."""
    try:
        return open_data_of(recipe)
    except UserError:
        with suppress(UserError):
            return open_data_of(recipe.with_data(val_fraction=0.5))
        raise


def _numbers(data: DataSplits, known: Sequence[str]) -> list[int]:
    """The student's number of each class of the data.

    Raises:
        UserError: it does not know one of them.
    """
    names = list(map(visible, data.classes))
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"{data.name} has {plural(len(unknown), 'class', 'classes')} that the student did not learn: "
            f"{listed(unknown, SHOWN_CLASSES)}; it knows {listed(known, SHOWN_CLASSES)} "
            f"({plural(len(known), 'class', 'classes')})" + _on_names(unknown, data)
        )
    number_of = {name: number for number, name in enumerate(known)}
    return [number_of[name] for name in names]


def _on_names(unknown: Sequence[str], data: DataSplits) -> str:
    """What to do about masks whose classes nothing names."""
    numbered = [f"class {number}" for number in range(len(data.classes))]
    return "; put a classes.txt with these names, one a line, beside the masks" * (set(unknown) <= set(numbered))
