"""The teacher of a run: fine-tuned where that is asked for, scored, and refused where it knows nothing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from understudy.core.taps import TappedModel
from understudy.data import train_loader
from understudy.models import Network, count_parameters, load_weights, save_student
from understudy.optim import undecayed_names
from understudy.recipes.comparison import row_named
from understudy.recipes.schema import TeacherConfig
from understudy.report import compact
from understudy.runs import checkpoint
from understudy.runs.components import Parts, live_teacher
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.stop import StopRequest
from understudy.runs.watcher import RunWatcher
from understudy.tasks import Evaluation
from understudy.teachers.bank.teacher import BankTeacher
from understudy.trackers.base import Trackers
from understudy.training.student import Student, parameters_of
from understudy.training.trainer import Trainer
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed

__all__ = ["banked_teacher", "check_teacher", "evaluate_teacher", "teacher_ready"]

EXPECTED_WITHIN = 0.5  # points of top-1 by which a published teacher may differ before it is warned of


def teacher_ready(
    parts: Parts, run: RunFolder, display: Display, stop: StopRequest, trackers: Trackers | None
) -> Parts:
    """The parts with a teacher that has had its training: before this run, in an earlier part of it, or now."""
    settings, network = parts.recipe.teacher, parts.teacher_network
    if settings is None or network is None or settings.train_epochs == 0:
        return parts
    if run.teacher.is_dir():
        load_weights(network.module, run.teacher, name=network.name)
        if parts.world.is_first:  # the call that kept it may have died before it cleared up
            checkpoint.remove(run.checkpoints, "teacher")
    else:
        _train(parts, run, display, stop, trackers)
        if parts.world.is_first:
            _keep(parts, network, run)
        parts.world.exchange(0)  # nobody goes on before the folder is there
    epochs = f"{settings.train_epochs} epoch{'s' * (settings.train_epochs > 1)}"
    network = replace(network, starts_from=f"{network.starts_from}, then trained here for {epochs}")
    return replace(parts, teacher_network=network, teacher=live_teacher(network, parts.device, parts.recipe))


def _keep(parts: Parts, network: Network, run: RunFolder) -> None:
    """Write the trained teacher, whole or not at all."""
    partial = run.path / ".teacher.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_student(
        partial,
        network,
        label_names=parts.data.classes,
        image_size=parts.teacher_size or parts.image_size,
        crop_share=parts.crop_share,
    )
    partial.rename(run.teacher)
    checkpoint.remove(run.checkpoints, "teacher")


def evaluate_teacher(parts: Parts, *, stop: StopRequest | None = None) -> dict[str, Evaluation]:
    """Its scores on every split that is evaluated, or those in its bank; none where its classes are not the data's.

    Raises:
        Interrupted: `stop` wants it; there is nothing to save.
    """
    for bank in parts.banks.values():  # of one teacher, all of them
        return _banked_evaluations(bank)
    teacher = parts.teacher
    if teacher is None or not parts.teacher_shares_classes:
        return {}
    splits = ["val"] if parts.data.test is None else ["val", "test"]
    return {
        split: parts.task.evaluate(
            {"teacher": lambda batch: teacher.observe(batch).output},
            (stop or StopRequest()).heeded(parts.eval_loader(split), parts.world, before=lambda: 0),
            parts.device,
            parts.world,
        )["teacher"]
        for split in splits
    }


def banked_teacher(parts: Parts, scores: Mapping[str, Evaluation]) -> dict[str, Any]:
    """What results.json says of a teacher whose network was not there."""
    facts = next(iter(parts.banks.values())).manifest.teacher
    names = ("model", "starts_from", "parameters", "macs", "image_size")
    known = {name: getattr(facts, name) for name in names}
    return {**known, **{split: scores[split].scores() if split in scores else None for split in ("val", "test")}}


def _banked_evaluations(bank: BankTeacher) -> dict[str, Evaluation]:
    found = {}
    for split, (predictions, labels) in bank.evaluated.items():
        scores = bank.manifest.teacher.scores[split]
        found[split] = Evaluation(scores["top1"], scores.get("top5"), scores["loss"], predictions, labels)
    return found


def check_teacher(parts: Parts, found: Evaluation | None, *, say: Callable[[str], None]) -> None:
    """Say what the teacher is worth; stop where it is no better than chance.

    Raises:
        UserError: top-1 within two standard errors of 1/C, unless the recipe allows a weak teacher.
    """
    settings = parts.recipe.teacher
    assert settings is not None
    size, starts_from = _size_and_origin(parts)
    if found is None:
        say(f"teacher  {settings.model}   {size} parameters   other classes than the data's, so it is not scored")
        return
    say(f"teacher  {settings.model}   {size} parameters   val top-1 {found.top1:.1f} %   {starts_from}")
    for note in parts.teacher.notes if parts.teacher is not None else ():
        say(f"note     {note}")
    num_classes, num_images = parts.task.num_classes, len(found.labels)
    chance = 1 / num_classes
    limit = 100 * (chance + 2 * math.sqrt(chance * (1 - chance) / num_images))
    if found.top1 <= limit and not settings.allow_weak:
        raise UserError(
            f"teacher {settings.model} scores {found.top1:.1f} % on {num_classes} classes: no better than chance "
            f"(which may reach {limit:.1f} % on {num_images} images). {_way_out(settings, starts_from)}, or go on all "
            "the same with --allow-weak-teacher (allow_weak_teacher=True in Python)."
        )
    expected = settings.expected_top1
    if expected is not None and abs(found.top1 - expected) > EXPECTED_WITHIN:
        say(f"warning  the teacher was expected at {expected:.2f} %, {found.top1 - expected:+.2f} points off")


def _way_out(settings: TeacherConfig, starts_from: str) -> str:
    """What may be wrong with a teacher that knows nothing."""
    if settings.train_epochs:
        epochs = f"{settings.train_epochs} epoch{'s' * (settings.train_epochs > 1)}"
        return f"It was trained here for {epochs}: give it more (with --overwrite, or another --out), or weights"
    if starts_from.startswith("random"):
        return (
            "Its weights are random: give --teacher-weights FILE (another teacher.model drops those of the recipe), or "
            "--train-teacher N to train it first"
        )
    return (
        "Are these the right weights, and are its classes in the same order as the data's? Give --train-teacher N to "
        "fine-tune it first"
    )


def _size_and_origin(parts: Parts) -> tuple[str, str]:
    """Parameters and first weights of the teacher, in words."""
    for bank in parts.banks.values():
        facts = bank.manifest.teacher
        views = f"{bank.num_views} view{'s' * (bank.num_views > 1)}"
        return compact(facts.parameters), f"{facts.starts_from}; from {bank.name} ({views}), not loaded"
    assert parts.teacher_network is not None
    return compact(count_parameters(parts.teacher_network.module)), parts.teacher_network.starts_from


def _train(parts: Parts, run: RunFolder, display: Display, stop: StopRequest, trackers: Trackers | None = None) -> None:
    """Fine-tune the teacher's own network, in place, on the run's training data."""
    recipe, network = parts.recipe, parts.teacher_network
    assert recipe.teacher is not None
    assert network is not None
    seed, world = recipe.seeds[0], parts.world
    if parts.teacher is not None:
        parts.teacher.model.untapped()  # nobody looks while it is trained
    size = parts.teacher_size or parts.image_size
    model = TappedModel(network.module, prepare=network.prepare, name=f"teacher {network.name}").to(parts.device)
    row = row_named(recipe, "alone")
    update = row.update if recipe.teacher.lr is None else row.update.model_copy(update={"lr": recipe.teacher.lr})
    student = Student(
        "teacher",
        model,
        task=parts.task,
        update=update.build(parameters_of(model.module, []), undecayed=undecayed_names(model.module)),
        schedule=recipe.schedule.in_proportion(recipe.epochs, to=recipe.teacher.train_epochs),
        seed=hashed(seed, "teacher") if world.is_first else hashed(seed, "teacher", world.rank),
        precision=recipe.precision,
        accumulate=recipe.accumulate,
        world=world,
    )
    world.copy_from_first_(list(model.state_dict().values()))
    trainer = Trainer([student], teacher=None, device=parts.device, log_every=recipe.log_every, world=world)
    watcher = RunWatcher(
        run,
        recipe,
        tag="teacher",
        seed=seed,
        label="teacher",
        display=display,
        stop=stop,
        world=world,
        trackers=trackers,
    )
    loader = train_loader(
        parts.data,
        recipe.data,
        seed=hashed(seed, "teacher"),
        image_size=size,
        device=parts.device,
        mean=network.mean,
        std=network.std,
        rank=world.rank,
        world_size=world.size,
    )
    epochs = recipe.teacher.train_epochs
    with display.stretch(epochs * loader.steps_per_epoch, images_per_step=recipe.data.batch_size):
        watcher.fit(trainer, loader, epochs=epochs)
