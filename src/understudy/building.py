"""Recipe -> parts: data, teacher, and the trainer of one seed with a student for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from understudy import spec as specs
from understudy.config import UserError
from understudy.data import DataSplits, EvalLoader, TrainLoader, augment_for, eval_loader, open_data, train_loader
from understudy.data.augment import EVAL_CROP
from understudy.hashing import hashed
from understudy.models import Network, create_model
from understudy.random_state import seeded
from understudy.recipe import Recipe, StudentConfig, TeacherConfig
from understudy.rows import Row
from understudy.spec import StudentSpec, Surroundings, check_num_classes, tap_teacher
from understudy.student import Student
from understudy.tasks import Classification
from understudy.teachers import LiveTeacher
from understudy.training import Trainer

__all__ = [
    "Parts",
    "build_student",
    "build_trainer",
    "check_rows",
    "deployed_network",
    "device_named",
    "live_teacher",
    "open_parts",
]

LARGE_IMAGE_SIZE = 224  # where neither recipe nor model names one


@dataclass(frozen=True)
class Parts:
    """What a recipe names, opened: shared by all rows and seeds of a run."""

    recipe: Recipe
    data: DataSplits
    device: torch.device
    image_size: int
    task: Classification
    student_network: Network  # as every student begins, but for its random weights
    make_student: Callable[[], Network]  # a fresh one, its weights drawn from the global random state
    teacher: LiveTeacher | None
    teacher_network: Network | None
    teacher_size: int | None  # None where teacher and student see the same size

    @property
    def crop_share(self) -> float:
        """Side of the centre crop that is evaluated, as a share of the resized image's shorter side."""
        return 1.0 if self.data.native_size is not None else self.image_size / round(self.image_size * EVAL_CROP)

    @property
    def teacher_shares_classes(self) -> bool:
        """Whether the teacher has an output for each class of the data, so that it can be scored on them."""
        if self.teacher is None:
            return False
        size = self.teacher_size or self.image_size
        output, _ = self.teacher.model.dry_forward(torch.zeros(2, 3, size, size, device=self.device))
        return isinstance(output, torch.Tensor) and output.shape[1:] == (self.task.num_classes,)

    @property
    def augmentation(self) -> str:
        """In words."""
        augment = augment_for(self.recipe.data, self.data.train)
        settings = ", ".join(f"{key} {value}" for key, value in augment.model_dump(exclude={"name"}).items())
        return f"{augment.name} ({settings})" if settings else augment.name

    def surroundings(self, seed: int) -> Surroundings:
        """What the students of one seed are built into."""
        size = self.image_size
        return Surroundings(
            task=self.task,
            num_classes=self.task.num_classes,
            sample=torch.zeros(2, 3, size, size, device=self.device),
            teacher=self.teacher,
            teacher_sample=torch.zeros(2, 3, *[self.teacher_size or size] * 2, device=self.device),
            train_labels=self.data.train.labels,
            seed=seed,
        )

    def train_loader(self, seed: int) -> TrainLoader:
        """Batches of one seed: its own order and its own views."""
        return train_loader(
            self.data,
            self.recipe.data,
            seed=seed,
            image_size=self.image_size,
            teacher_size=self.teacher_size,
            device=self.device,
        )

    def eval_loader(self, split: str) -> EvalLoader:
        """Batches of "train", "val" or "test" in data order, not augmented."""
        source = {"train": self.data.train, "val": self.data.val, "test": self.data.test}[split]
        if source is None:
            raise UserError(f"{self.data.name} has no {split} split")
        return eval_loader(
            source,
            self.recipe.data,
            image_size=self.image_size,
            teacher_size=self.teacher_size,
            device=self.device,
        )


def open_parts(recipe: Recipe, *, allow_code: bool, say: Callable[[str], None]) -> Parts:
    """Open the data, build the teacher, and learn how to build students."""
    data = open_data(recipe.data)
    for note in data.notes:
        say(note)
    device = device_named(recipe.device)
    if len(data.classes) < 2:
        raise UserError(f"{data.name} has one class, {data.classes[0]!r}; there is nothing to tell apart")
    num_classes = len(data.classes)

    def create(settings: StudentConfig | TeacherConfig) -> Network:
        network = create_model(
            settings.model,
            num_classes=num_classes,
            weights=settings.weights,
            image_size=recipe.data.image_size,
            mean=data.mean,
            std=data.std,
            allow_code=allow_code,
            kwargs=settings.kwargs,
            # Weights for other classes are a start for whoever is going to be trained on these.
            new_head=isinstance(settings, StudentConfig) or settings.train_epochs > 0,
        )
        if recipe.channels_last:
            network.module.to(memory_format=torch.channels_last)
        return network

    student = create(recipe.student)
    teacher = None
    if recipe.teacher is not None:
        # A teacher that is going to be trained starts like any other model; the seed decides its first weights.
        with seeded(hashed(recipe.seeds[0], "teacher")):
            teacher = create(recipe.teacher)
    image_size = recipe.data.image_size or data.native_size or student.input_size or LARGE_IMAGE_SIZE
    teacher_size = None
    if teacher is not None and data.native_size is None and teacher.input_size not in (None, image_size):
        teacher_size = teacher.input_size
    return Parts(
        recipe=recipe,
        data=data,
        device=device,
        image_size=image_size,
        task=Classification(num_classes, label_smoothing=recipe.label_smoothing),
        student_network=student,
        make_student=lambda: create(recipe.student),
        teacher=live_teacher(teacher, device) if teacher is not None else None,
        teacher_network=teacher,
        teacher_size=teacher_size,
    )


def live_teacher(network: Network, device: torch.device) -> LiveTeacher:
    """The network as a teacher on `device`."""
    return LiveTeacher(network.module.to(device), prepare=network.prepare.to(device), name=f"teacher {network.name}")


def build_trainer(parts: Parts, rows: Sequence[Row], seed: int) -> Trainer:
    """The trainer of one seed, with a student for every row."""
    if parts.teacher is not None:
        tap_teacher(parts.teacher, [config for row in rows for config in row.method])
    return Trainer([build_student(parts, row, seed) for row in rows], teacher=parts.teacher, device=parts.device)


def build_student(parts: Parts, row: Row, seed: int) -> Student:
    """A fresh student: same first weights for every row of a seed, whatever other rows there are."""
    with seeded(hashed(seed, "weights")):
        network = parts.make_student()
    spec = StudentSpec(
        network.module,
        method=row.method,
        update=row.update,
        schedule=parts.recipe.schedule,
        task_weight=row.task_weight,
        name=row.name,
        prepare=network.prepare,
    )
    return specs.build_student(spec, parts.surroundings(seed))


def deployed_network(parts: Parts, student: Student) -> Network:
    """What is saved and counted of a trained student: its network, or what its method makes of it."""
    deployed = student.deployed()
    if deployed is student.model.module:
        return replace(parts.student_network, module=deployed)
    # No name can rebuild it: load_student wants a module that is built alike.
    return replace(parts.student_network, module=deployed, name=type(deployed).__name__, kwargs={})


def check_rows(parts: Parts, rows: Sequence[Row]) -> None:
    """Refuse before training what could not work: class counts, too few classes or rows, missing taps.

    Raises:
        UserError: naming the method and the way out.
    """
    config, num_train = parts.recipe.data, len(parts.data.train)
    remainder = 0 if config.drop_last else num_train % config.batch_size
    smallest = min(config.batch_size, num_train) if remainder == 0 else remainder
    for method in (method for row in rows for method in row.method):
        name = method.method.name
        check_num_classes(method, len(parts.data.classes))
        if "copies" in method.method.needs_for(method) and config.copies == "none":
            raise UserError(f"method {name!r} compares rotated copies of each image; set data.copies=rotations")
        needed = method.method.min_rows(method)
        if smallest < needed:
            raise UserError(
                f"method {name!r} needs at least {needed} images in every batch, but the smallest one here has "
                f"{smallest} ({num_train} images, data.batch_size {config.batch_size}); "
                "set data.drop_last=true or another data.batch_size"
            )


def device_named(name: str) -> torch.device:
    """The device of a recipe; "auto" is CUDA where torch finds it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda, but torch finds no CUDA device here; set device=cpu")
    return torch.device(name)
