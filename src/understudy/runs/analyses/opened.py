"""A finished run, opened to be analysed: its students and its teacher, and some of its images in memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.batch import Batch
from understudy.core.outputs import LogitsAlone, logits_of
from understudy.core.taps import TappedModel
from understudy.data import eval_loader
from understudy.data.augment.boxes import box_rendering
from understudy.data.loaders.boxes import BoxEvalLoader
from understudy.data.sources.base import rows_of as image_rows
from understudy.distributed.launch import device_named
from understudy.models import Network, load_student_network
from understudy.recipes.comparison import Variant, rows_of
from understudy.recipes.schema import Recipe
from understudy.report import Results
from understudy.runs.analyses.images import Shown, labelled_places, shown_of, split_of
from understudy.runs.classifiers import teachers_by_name
from understudy.runs.evaluate import Images, images_of
from understudy.runs.folder import RunFolder
from understudy.runs.reopen import image_sizes, made_by_python, recipe_of, results_of, row_network_of
from understudy.utils.errors import UserError

__all__ = ["TEACHER", "Opened", "open_run"]

TEACHER = "teacher"
BESIDE = " beside the "  # in the names of pairs with another teacher than the first
BATCH_SIZE = 128
TIMED_IMAGES = 64
BOXED_AT_ONCE = 8  # images with boxes, which may be large


@dataclass
class Opened:
    """What analyses read. Networks and images are opened when they are asked for, and kept.

    Attributes:
        run: finished.
        recipe: of it.
        results: of it.
        rows: those that are compared, by name.
        seed: whose students they are.
        num_images: at most so many of a split.
        points: of a loss landscape along each direction, an odd number.
        check: called often; raises where somebody wants to stop.
    """

    run: RunFolder
    recipe: Recipe
    results: Results
    rows: Mapping[str, Variant]
    seed: int
    num_images: int
    points: int
    source: Images
    allow_code: bool = False
    module: nn.Module | None = None
    check: Callable[[], None] = lambda: None
    _networks: dict[str, Network] = field(default_factory=dict)
    _shown: dict[str, Shown] = field(default_factory=dict)
    _kept: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        return device_named(self.recipe.device)

    @property
    def names(self) -> list[str]:
        """The rows, and the teachers where there are any."""
        return [*self.rows, *(self.teachers if self.teacher_problem is None else ())]

    @cached_property
    def teachers(self) -> Mapping[str, str | None]:
        """The first teacher and those beside it by name, and the head that learns from each; None: the first."""
        also = {} if self.recipe.teacher is None else self.recipe.teacher.also
        return {TEACHER: None, **{f"{TEACHER} of {head}": head for head in also}}

    @property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """Every row beside every teacher, by the names of what is found out of them: a row's own for the first."""
        return {
            row if head is None else f"{row}{BESIDE}{teacher}": (row, teacher)
            for row in self.rows
            for teacher, head in self.teachers.items()
        }

    @cached_property
    def teacher_problem(self) -> str | None:
        """Why there is no teacher to look at; None: there is."""
        if self.recipe.teacher is None:
            return "this run has no teacher: --teacher gives it one"
        if made_by_python(self.run):
            return "the teacher was handed over in Python, and a run folder does not hold it"
        try:
            network, *_ = [self.network(name) for name in self.teachers]
        except UserError as error:
            return f"the teacher cannot be opened: {error}"
        if network.num_classes != self.results.data.num_classes:
            return (
                f"the teacher tells {network.num_classes} classes apart, the students {self.results.data.num_classes}"
            )
        return None

    def network(self, name: str) -> Network:
        """A row's student, or a teacher, on the device in evaluation mode."""
        if name not in self._networks:
            network = self._teacher(self.teachers[name]) if name in self.teachers else self._student(name)
            network.module.to(self.device).eval()
            self._networks[name] = network
        return self._networks[name]

    def tapped(self, name: str, taps: list[str]) -> TappedModel:
        """The same, tapped."""
        network = self.network(name)
        model = TappedModel(network.module, taps, prepare=network.prepare.copied_to(self.device), name=name)
        return model.eval()

    def shown(self, split: str) -> Shown:
        """At most `num_images` of a split's labelled images, evenly spread over it."""
        if split not in self._shown:
            self._shown[split] = shown_of(self.source, split, self.num_images, self.run, self.recipe)
        return self._shown[split]

    def images(self, name: str, split: str, *, most: int | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Batches of images as a network takes them, normalised, and labels or boxes, on the device."""
        shown, network = self.shown(split), self.network(name)
        prepare = network.prepare.copied_to(self.device)
        if self.recipe.task == "detection":
            for batch in self._boxed(split, most):
                self.check()
                yield prepare(batch.images.to(self.device)), batch.targets
            return
        images = shown.teacher_images if name in self.teachers else shown.images
        for start in range(0, len(shown) if most is None else min(most, len(shown)), BATCH_SIZE):
            self.check()
            here = slice(start, min(start + BATCH_SIZE, most or len(shown)))
            yield prepare(images[here].to(self.device)), shown.labels[here].to(self.device)

    def _boxed(self, split: str, most: int | None) -> BoxEvalLoader:
        """Images with boxes, padded to the largest of each batch; read when they are wanted."""
        numbers = self.shown(split).numbers[:most]
        some = image_rows(self.source.splits[split], numbers)
        return BoxEvalLoader(some, box_rendering(self.recipe.data), batch_size=BOXED_AT_ONCE)

    @property
    def is_dense(self) -> bool:
        """Whether images have masks, so that they are of any size and never in memory together."""
        return self.recipe.task == "segmentation"

    def count(self, split: str) -> int:
        """How many images of a split are looked at."""
        return len(labelled_places(self.source, split, self.num_images)) if self.is_dense else len(self.shown(split))

    def batches(self, split: str) -> Iterator[Batch]:
        """At most `num_images` of a split with their masks, evenly spread over it, as they are evaluated."""
        chosen = image_rows(split_of(self.source, split), labelled_places(self.source, split, self.num_images))
        for batch in eval_loader(chosen, self.recipe.data, image_size=image_sizes(self.run)[0]):
            self.check()
            yield batch

    def dense_logits(self, name: str, images: Tensor) -> Tensor:
        """(B,C,h,w) of images in [0,1]."""
        network = self.network(name)
        with torch.no_grad():
            found = logits_of(network.module(network.prepare.copied_to(self.device)(images)))
        assert found is not None, "it was evaluated before"
        return found.float()

    def logits(self, name: str, split: str) -> Tensor:
        """(N,C) float32 on the CPU, of what is shown of a split."""
        if (name, split) not in self._kept:
            module = self.network(name).module
            with torch.no_grad():
                found = [module(images).float().cpu() for images, _ in self.images(name, split)]
            self._kept[name, split] = torch.cat(found)
        return self._kept[name, split]

    def seconds_per_image(self, name: str, split: str) -> float:
        """Of a forward pass, measured on a few images."""
        module = self.network(name).module
        if self.is_dense:
            images = next(iter(self.batches(split))).images.to(self.device)
            module = LogitsAlone(module)
        else:
            images = next(iter(self.images(name, split, most=TIMED_IMAGES)))[0]
        with torch.no_grad():
            module(images)
            begin = time.perf_counter()
            said = module(images)
            first = next(iter(said.values())) if isinstance(said, Mapping) else said  # of a detector, its maps
            first.sum().item()
        return (time.perf_counter() - begin) / len(images)

    def identity(self, split: str) -> dict[str, Any]:
        """What tells these networks and images from others."""
        folders = {row: self.run.students / row / f"seed{self.seed}" for row in self.rows}
        return {
            "students": {row: _digest(folder / "model.safetensors") for row, folder in folders.items()},
            "teacher": None if self.recipe.teacher is None else _digest(self.run.teacher / "model.safetensors"),
            "data": self.source.which,
            "split": split,
            "seed": self.seed,
            "num_images": self.count(split),
        }

    def _student(self, row: str) -> Network:
        return row_network_of(self.run, self.rows[row], self.seed, allow_code=self.allow_code, module=self.module)

    def _teacher(self, head: str | None) -> Network:
        if self.run.teacher.is_dir():
            return load_student_network(self.run.teacher, allow_code=self.allow_code)
        return self._teachers_by_name[head]

    @cached_property
    def _teachers_by_name(self) -> Mapping[str | None, Network]:
        return teachers_by_name(self.recipe, self.allow_code)


def open_run(
    run: RunFolder,
    *,
    seed: int | None,
    num_images: int,
    points: int,
    data: str | None,
    allow_code: bool,
    module: nn.Module | None,
    check: Callable[[], None],
) -> Opened:
    """Open a finished run.

    Raises:
        UserError: it is not finished, of another seed, or its images cannot be shown again.
    """
    results, recipe = results_of(run), recipe_of(run)
    if seed is not None and seed not in results.seeds:
        raise UserError(f"{run.path} has no seed {seed}, only {', '.join(map(str, results.seeds))}")
    wanted = results.seeds[0] if seed is None else seed
    known = {row.name for row in results.rows}
    rows = {row.name: row for row in rows_of(recipe) if row.name in known}
    gone = [name for name in rows if not (run.students / name / f"seed{wanted}").is_dir()]
    if gone:
        raise UserError(
            f"{run.students} has no student of {', '.join(gone)} and seed {wanted}; it was taken away since"
        )
    if data is None and recipe.data.streaming:
        raise UserError(f"{run.path} streamed its images, which cannot be chosen from; name others: --data FOLDER")
    source = images_of(run, data)
    return Opened(
        run, recipe, results, rows, wanted, num_images, points, source,
        allow_code=allow_code, module=module, check=check,
    )  # fmt: skip


def _digest(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None
