"""Components of a run: data, task, teacher and student networks, opened once; `component_changes` says what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from understudy.core.image_size import ImageSize, height_and_width
from understudy.data import (
    DataSplits,
    EvalLoader,
    TrainLoader,
    augment_for,
    eval_loader,
    train_loader,
)
from understudy.data.augment.config import Augment, NoAugment, ResizedCrop
from understudy.data.augment.crops import crop_share, second_augment_for
from understudy.data.loaders.in_steps import InSteps
from understudy.data.resized import resized_source
from understudy.data.sources.base import images_in_memory, rows_of
from understudy.distributed.launch import device_named
from understudy.distributed.world import SINGLE, World
from understudy.models import Network
from understudy.models.cost import model_facts
from understudy.models.several import SeveralNetworks
from understudy.recipes.schema import Recipe
from understudy.runs.absent_files import refuse_absent_files
from understudy.runs.bank.open import open_all_banks, refuse_absent_banks, was_made_unturned
from understudy.runs.data_task import open_data_of, task_of, with_task_of
from understudy.runs.networks import LARGE_IMAGE_SIZE, network_named, teacher_named, with_classes_numbered
from understudy.tasks import Task
from understudy.tasks.base import is_dense
from understudy.teachers import LiveTeacher, RunTeacher, SeveralTeachers, Teacher
from understudy.training.build import BuildContext
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed
from understudy.utils.seeding import seeded
from understudy.utils.text import mib

__all__ = ["Components", "live_teacher", "open_components", "task_of"]


@dataclass(frozen=True)
class Components:
    """What a recipe names, opened: shared by all rows and seeds of a run."""

    recipe: Recipe
    data: DataSplits
    device: torch.device
    image_size: ImageSize
    task: Task
    student_network: Network  # as every student begins, but for its random weights
    make_student: Callable[[], Network]  # a fresh one, its weights drawn from the global random state
    teacher: RunTeacher | None
    teacher_network: Network | None  # None where there is no teacher, or none that is built, as with a bank
    teacher_size: ImageSize | None  # None where teacher and student see the same size
    world: World = SINGLE

    def teacher_of(self, seed: int) -> Teacher | None:
        """Whom the students of a seed learn from."""
        return None if self.teacher is None else self.teacher.for_seed(seed)

    @property
    def shown_teacher(self) -> Teacher:
        """The teacher of the first seed, for whom has a run with one."""
        teacher = self.teacher_of(self.recipe.seeds[0])
        assert teacher is not None, "this recipe has a teacher"
        return teacher

    @property
    def teacher_sample(self) -> torch.Tensor:
        """(2,C,H,W) empty images of the size that the teacher sees, on its device."""
        return self.blank_images(self.teacher_size or self.image_size)

    @property
    def teacher_looks(self) -> bool:
        """Whether there is a teacher that is shown the images of each batch."""
        return self.teacher is not None and self.teacher.looks_at_images

    @property
    def crop_share(self) -> float:
        """Sides of the centre crop that is evaluated, as a share of what images are scaled to cover."""
        return 1.0 if self.data.native_size is not None else crop_share(self.image_size)

    @property
    def kept_size(self) -> ImageSize | None:
        """To which a student that is taken elsewhere brings its images; None: it takes them as they come."""
        return None if is_dense(self.task) else self.image_size

    @property
    def teacher_shares_classes(self) -> bool:
        """Whether the teacher has an output for each class of the data, so that it can be scored on them."""
        return self.teacher is not None and self.teacher.num_outputs(self.teacher_sample) == self.task.num_classes

    def blank_images(self, size: ImageSize) -> torch.Tensor:
        """(2,D,H,W) black images of the data's channels, for dry forward passes."""
        return torch.zeros(2, self.data.channels, *height_and_width(size), device=self.device)

    @property
    def augmentation(self) -> str:
        """In words."""
        config, train = self.recipe.data, self.data.train
        second = second_augment_for(config, train)
        views = [augment_for(config, train), *([] if second is None else [second])]
        where = ", on the device" if config.augment_on == "device" else ""
        return " beside ".join(map(_in_words, views)) + where

    def build_context(self, seed: int) -> BuildContext:
        """What the students of one seed are built into."""
        return BuildContext(
            task=self.task,
            num_classes=self.task.num_classes,
            sample=self.blank_images(self.image_size),
            teacher=self.teacher_of(seed),
            teacher_sample=self.teacher_sample,
            train_labels=self.data.train.labels,
            seed=seed,
            world=self.world,
        )

    def train_loader(self, seed: int) -> TrainLoader:
        """Batches of one seed, this process's part of each: its own order and its own views, or those of its bank."""
        loader, steps = self.whole_passes(seed), self.recipe.steps
        return loader if steps is None else InSteps(loader, steps // self.recipe.epochs)

    def whole_passes(self, seed: int) -> TrainLoader:
        """The same, an epoch of which is a pass over the images, also where the run's length is said in steps."""
        teacher_size = self.teacher_size
        config, train = self.recipe.data, self.data.train
        views = [augment_for(config, train), second_augment_for(config, train) or NoAugment()]
        if not self.teacher_looks and all(isinstance(view, NoAugment | ResizedCrop) for view in views):
            teacher_size = None  # nobody looks; other crops are cut at the larger size, so the student's depend on it
        return train_loader(
            self.data,
            self.recipe.data,
            seed=seed,
            image_size=self.image_size,
            teacher_size=teacher_size,
            num_views=None if self.teacher is None else self.teacher.num_views,
            device=self.device,
            mean=self.student_network.mean,
            std=self.student_network.std,
            rank=self.world.rank,
            world_size=self.world.size,
        )

    def eval_loader(self, split: str) -> EvalLoader:
        """Batches of "train", "val" or "test" in data order, not augmented."""
        source = {"train": self.data.train, "val": self.data.val, "test": self.data.test}[split]
        if source is None:
            raise UserError(f"{self.data.name} has no {split} split")
        if split == "train" and self.data.num_unlabelled:
            source = rows_of(source, (source.labels >= 0).nonzero().flatten())
        return eval_loader(
            source,
            self.recipe.data,
            image_size=self.image_size,
            teacher_size=self.teacher_size if self.teacher_looks else None,
            device=self.device,
            rank=self.world.rank,
            world_size=self.world.size,
        )


def open_components(
    recipe: Recipe, *, allow_code: bool, say: Callable[[str], None], world: World = SINGLE
) -> Components:
    """Open the data, build the teacher, and learn how to build students."""
    device = device_named(recipe.device, world)
    _check_names_exist(recipe, device, world)
    recipe, data = _opened_data(recipe, say)
    if len(data.classes) < 2 and not data.have_boxes:
        raise UserError(f"{data.name} has one class, {data.classes[0]!r}; there is nothing to tell apart")
    recipe = with_classes_numbered(recipe, data)
    create = partial(network_named, recipe=recipe, data=data, allow_code=allow_code, world=world)
    student = create(recipe.student)
    network: Network | None = None
    teacher: RunTeacher | None = None
    if recipe.teacher is not None and recipe.bank is None:
        # A teacher that is going to be trained starts like any other model; the seed decides its first weights.
        with seeded(hashed(recipe.seeds[0], "teacher")):
            network = teacher_named(recipe, create)
    usual = student.input_size if data.window is None else data.window
    image_size = recipe.data.image_size or data.native_size or usual or LARGE_IMAGE_SIZE
    teacher_size = _teacher_size(recipe, data, network, image_size)
    data = _with_resized_images(data, recipe, [image_size, *([] if teacher_size is None else [teacher_size])], say)
    if network is not None:
        teacher = live_teacher(network, device, recipe, image_size=teacher_size or image_size)
    if recipe.bank is not None:
        banks = open_all_banks(recipe, data, image_size=image_size, student=student, world_size=world.size)
        for note in banks.notes:
            say(note)
        teacher = banks.teacher
        teacher_size = None if banks.image_size == image_size else banks.image_size
        begun = {"key": banks.key, "num_views": banks.num_views}
        kept = recipe.bank.model_copy(update=begun)
        recipe = recipe.model_copy(update={"bank": kept})
    return Components(
        recipe=recipe,
        data=data,
        device=device,
        image_size=image_size,
        task=task_of(recipe, data),
        student_network=student,
        make_student=partial(create, recipe.student),
        teacher=teacher,
        teacher_network=network,
        teacher_size=teacher_size,
        world=world,
    )


def _opened_data(recipe: Recipe, say: Callable[[str], None]) -> tuple[Recipe, DataSplits]:
    """The data, and the recipe with what they have settled."""
    data = open_data_of(recipe)
    if data.num_rotated and was_made_unturned(recipe):
        say(f"bank     {recipe.bank and recipe.bank.path} was made of images as they lie in their files: so are these")
        recipe = recipe.with_data(exif_rotation=False)
        data = open_data_of(recipe)
    for note in data.notes:
        say(note)
    recipe = with_task_of(recipe, data)
    if data.greys is not None:  # chosen by these images; a run goes on with it, and others are evaluated by it
        recipe = recipe.with_data(grey_range=data.greys)
    return recipe, data


def _teacher_size(recipe: Recipe, data: DataSplits, teacher: Network | None, image_size: ImageSize) -> ImageSize | None:
    """Size of the teacher's own images; None where it sees the student's.

    Images of one small size reach both as they are, and a network resizes them itself, unless the recipe says more.
    """
    if teacher is None or teacher.input_size in (None, image_size):
        return None
    is_told = recipe.teacher is not None and recipe.teacher.image_size is not None
    return teacher.input_size if is_told or data.native_size is None else None


def _with_resized_images(
    data: DataSplits, recipe: Recipe, sizes: Sequence[ImageSize], say: Callable[[str], None]
) -> DataSplits:
    """The data with its training images scaled down and in memory, where that is asked for and they are large."""
    if recipe.data.cache != "resized" or images_in_memory(data.train) is not None:
        return data
    largest = max(sizes, key=lambda size: min(height_and_width(size)))
    resized = resized_source(data.train, largest)
    say(f"{len(resized):,} training images take {mib(resized.num_bytes)} of memory, scaled down and as JPEG")
    return replace(data, train=resized)


def _check_names_exist(recipe: Recipe, device: torch.device, world: World) -> None:
    """What can be said before any image is read: misspelt models, lost weights, a bank that nobody made."""
    if recipe.sync_batch_norm and world.size > 1 and device.type == "cpu":
        raise UserError(
            "sync_batch_norm: torch has it for GPUs only, and this run is on the CPU; set sync_batch_norm=false (each "
            "process then normalises its own rows), or take a student without batch norm"
        )
    refuse_absent_banks(recipe)
    refuse_absent_files(recipe)


def _in_words(augment: Augment) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in augment.model_dump(exclude={"name"}).items())
    return f"{augment.name} ({settings})" if settings else augment.name


def live_teacher(network: Network, device: torch.device, recipe: Recipe, *, image_size: ImageSize) -> Teacher:
    """The network as a teacher on `device`, run as fast as the recipe lets it; of several each by itself.

    Args:
        network: of the teacher.
        device: where it is run.
        recipe: says whether it is folded and compiled.
        image_size: of the images that it sees.
    """
    if isinstance(network.module, SeveralNetworks):
        parts = network.module.parts.items()
        looks = partial(live_teacher, device=device, recipe=recipe, image_size=image_size)
        return SeveralTeachers({head: looks(part) for head, part in parts})
    return LiveTeacher(
        network.module.to(device),
        prepare=network.prepare.to(device),
        name=f"teacher {network.name}",
        fold_batch_norm=recipe.fold_teacher,
        compile=recipe.compile,
        say=lambda note: None,  # a run says it beside the teacher's score
        facts=partial(model_facts, network, image_size),
    )
