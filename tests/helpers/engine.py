"""Small networks, recipes and comparisons that the engine's tests share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy import (
    DOT,
    Batch,
    Classification,
    Joint,
    LiveTeacher,
    Recipe,
    Student,
    StudentSpec,
    Trainer,
    methods,
)
from understudy.recipes.schema import merged
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.run import execute
from understudy.teachers import Teacher
from understudy.training.build import BuildContext, build_student, seeded, tap_teacher

CLASSES = 10
CPU = torch.device("cpu")

# Two rows, two seeds and three steps an epoch, the last of them with 16 images: all that a run has, in two seconds.
TINY: dict[str, Any] = {
    "data": {"root": "digits", "train_rows": "0:80", "val_rows": "1000:1100", "batch_size": 32, "image_size": 8},
    "teacher": {"model": "cifar:resnet8", "kwargs": {"width": 0.5}, "weights": "none", "allow_weak": True},
    "student": {"model": "cifar:resnet8", "kwargs": {"width": 0.25}, "weights": "none"},
    "rows": ["alone", "kd+dot"],
    "epochs": 2,
    "seeds": [0, 1],
    "log_every": 2,
}
# The same with a student that draws random numbers while it trains.
DROPOUT_STUDENT = {
    "model": "timm:vit_tiny_patch16_224",
    "kwargs": {"patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2, "drop_rate": 0.2, "drop_path_rate": 0.2},
    "weights": "none",
}


def tiny_recipe(over: Mapping[str, Any] | None = None) -> Recipe:
    """TINY with these settings laid on it; another student comes without the arguments of the first."""
    over = over or {}
    base = {key: value for key, value in TINY.items() if key != "student" or key not in over}
    return Recipe.read(merged(base, over), what="the test's recipe")


def run_recipe(recipe: Recipe, out: Path | None, *, display: Display | None = None, **options: Any) -> RunFolder:
    """The run folder after `execute`."""
    return execute(recipe, name="test", out=out, display=display or Display(quiet=True), **options)


def reproducible_files(run: RunFolder) -> dict[str, bytes]:
    """Content of every file that must be the same on every repetition, by path in the run folder.

    A seed's last checkpoint holds the same tensors every time, but pickles strings that are one object only once;
    threads.json gives the reason of its number too, which may be a measurement or what the process was told.
    """
    elsewhere = {"timing.jsonl", "environment.json", "report.html", "threads.json"}
    return {
        str(file.relative_to(run.path)): file.read_bytes()
        for file in sorted(run.path.rglob("*"))
        if file.is_file() and file.name not in elsewhere and not file.name.endswith("-end.pt")
    }


def read_metrics(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in run.metrics_file.read_text(encoding="utf-8").splitlines()]


class SmallNet(nn.Module):
    """Convolution, batch norm, in-place ReLU, dropout, classifier: whatever a training step can get wrong."""

    def __init__(self, channels: int = 6, num_classes: int = CLASSES, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.dropout(self.act(self.norm(self.conv(images))).mean((2, 3))))


def small_net(seed: int, **arguments: Any) -> SmallNet:
    """A SmallNet whose weights depend on nothing but the seed."""
    with seeded(seed):
        return SmallNet(**arguments)


def small_teacher(**arguments: Any) -> LiveTeacher:
    """A teacher of 12 channels with batch statistics that are not the initial ones."""
    network = small_net(99, channels=12, **arguments)
    with seeded(98):
        network.norm.running_mean.normal_()
        network.norm.running_var.uniform_(0.5, 1.5)
        network.fc.weight.data.mul_(5)
    return LiveTeacher(network)


@cache
def batches(count: int = 3, size: int = 8, last: int = 5) -> tuple[Batch, ...]:
    """Batches of (size,3,8,8) images, the last one smaller."""
    drawn = torch.Generator().manual_seed(7)
    sizes = [size] * (count - 1) + [last]
    return tuple(
        Batch(torch.rand(n, 3, 8, 8, generator=drawn), torch.randint(CLASSES, (n,), generator=drawn)) for n in sizes
    )


def plain_batches() -> list[tuple[Tensor, Tensor]]:
    """The same as a plain loader gives them."""
    return [(batch.images, batch.targets) for batch in batches()]


def student_of(spec: StudentSpec, teacher: Teacher | None = None, *, seed: int = 0) -> Student:
    """The student of a spec, built for the batches above."""
    if teacher is not None:
        tap_teacher(teacher, spec.methods)
    around = BuildContext(
        task=Classification(CLASSES), num_classes=CLASSES, sample=batches()[0].images, teacher=teacher, seed=seed
    )
    return build_student(spec, around)


ROWS: dict[str, tuple[Any, str]] = {
    "alone": ((), "joint"),
    "kd": (methods.KD.Config(), "joint"),
    "kd+dot": (methods.KD.Config(), "dot"),
    "dist": (methods.DIST.Config(), "joint"),
    "projector": (methods.Projector.Config(), "joint"),
}


def spec_of(row: str, *, dropout: float = 0.5) -> StudentSpec:
    """The spec of a row of ROWS, with a fresh network of the same first weights."""
    method, update = ROWS[row]
    settings = DOT.Config(lr=0.1) if update == "dot" else Joint.Config(lr=0.1)
    return StudentSpec(small_net(1, dropout=dropout), method=method, update=settings, name=row)


def trained(names: list[str], teacher: LiveTeacher | None, *, epochs: int = 2) -> Trainer:
    """A trainer of these rows after so many epochs on the batches above."""
    trainer = Trainer([student_of(spec_of(name), teacher) for name in names], teacher=teacher, device=CPU)
    trainer.fit(plain_batches(), epochs=epochs)
    return trainer


def measured(trainer: Trainer, row: str) -> dict[str, float]:
    """What was measured of a row since the last call."""
    if not trainer.measures.interval:  # else the trainer has just closed one
        trainer.measures.close_interval()
    found = trainer.measures.interval[row]
    trainer.measures.interval = {}
    return found
