"""The loop costs little beside its arithmetic: a ratio within one process, of processor time."""

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.engine import CPU
from understudy import DOT, Classification, Joint, LiveTeacher, Schedule, StudentSpec, Trainer, create_model, methods
from understudy.data import CropFlip, DataConfig, TensorSource, train_loader
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.utils.seeding import seeded

BATCH_SIZE, CLASSES, PAIRS, WARMUP = 16, 10, 30, 4


def network(name: str) -> nn.Module:
    with seeded(0):
        module = create_model(f"cifar:{name}", num_classes=CLASSES, weights="none").module
    return module.to(memory_format=torch.channels_last)


def bare_step(update: str) -> Callable[[], None]:
    """Teacher forward, student forward, backward pass or passes, fused SGD, on ready tensors."""
    teacher, student = network("resnet20").eval(), network("resnet8").train()
    parameters = list(student.parameters())
    optimizer = torch.optim.SGD(parameters, 0.05, 0.9, weight_decay=5e-4, fused=True)
    images = torch.rand(BATCH_SIZE, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH_SIZE) % CLASSES

    def step() -> None:
        with torch.no_grad():
            target = F.log_softmax(teacher(images) / 4, dim=1)
        logits = student(images)
        task = 0.1 * F.cross_entropy(logits, labels)
        distill = 14.4 * F.kl_div(F.log_softmax(logits / 4, dim=1), target, reduction="batchmean", log_target=True)
        for loss in (task, distill) if update == "dot" else (task + distill,):
            found = torch.autograd.grad(loss, parameters, retain_graph=loss is task)
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            optimizer.step()

    return step


class Alternating:
    """A watcher that takes a bare step after every step of the trainer, and times both."""

    def __init__(self, bare: Callable[[], None]) -> None:
        self.bare = bare
        self.pairs: list[tuple[float, float]] = []
        self._began: float | None = None

    def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
        ended = time.process_time()
        self.bare()
        now = time.process_time()
        if self._began is not None:
            self.pairs.append((ended - self._began, now - ended))
        self._began = now

    def finished_epoch(self, trainer: Trainer) -> None:
        """Nothing: only whole steps are timed."""


@pytest.mark.parametrize("update", ["joint", "dot"])
def test_a_whole_step_costs_at_most_a_quarter_more_than_its_arithmetic(update: str) -> None:
    # Not folded, so that what the fold wins does not hide what the loop costs.
    teacher, config = LiveTeacher(network("resnet20")), methods.KD.Config()
    tap_teacher(teacher, [config])
    num_images = BATCH_SIZE * (PAIRS + WARMUP + 1)
    images = torch.randint(0, 256, (num_images, 3, 32, 32), dtype=torch.uint8)
    source = TensorSource(images, torch.arange(num_images) % CLASSES)
    settings = DataConfig(root="in memory", batch_size=BATCH_SIZE, augment=CropFlip())
    spec = StudentSpec(
        network("resnet8"),
        method=config,
        update=DOT.Config() if update == "dot" else Joint.Config(),
        schedule=Schedule(name="step", milestones=(150, 180, 210)),
    )
    around = BuildContext(Classification(CLASSES), CLASSES, sample=torch.zeros(2, 3, 32, 32), teacher=teacher)
    trainer = Trainer([build_student(spec, around)], teacher=teacher, device=CPU)
    watcher = Alternating(bare_step(update))
    trainer.fit(train_loader(source, settings, seed=0, image_size=32), epochs=1, watcher=watcher)
    ours, bare = zip(*watcher.pairs[WARMUP:], strict=True)
    assert len(ours) == PAIRS
    assert min(ours) / min(bare) < 1.25  # the least of each: what else the machine does comes on top
