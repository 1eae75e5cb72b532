"""The teacher of a run: fine-tuned where that is asked for, scored, and refused where it knows nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from understudy.core.taps import TappedModel
from understudy.data import eval_loader, train_loader
from understudy.models import Network, load_weights, save_student
from understudy.optim import undecayed_names
from understudy.recipes.comparison import row_named
from understudy.recipes.schema import TeacherConfig
from understudy.report.formatting import compact, score, with_unit
from understudy.runs import checkpoint
from understudy.runs.component_changes import teachers_apart, with_teacher
from understudy.runs.components import Components
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.runs.stop import StopRequest
from understudy.runs.watcher import RunWatcher
from understudy.tasks import Evaluation, Task
from understudy.tasks.base import headline_metric
from understudy.teachers import KeptScores
from understudy.trackers.base import Trackers
from understudy.training.student import Student, parameters_of
from understudy.training.trainer import Trainer
from understudy.utils.errors import UserError
from understudy.utils.hashing import hashed
from understudy.utils.text import plural

__all__ = ["check_teacher", "evaluate_teacher", "teacher_ready"]

EXPECTED_METRIC = "top1"  # what teacher.expected_top1 speaks of
EXPECTED_WITHIN = 0.5  # points by which a published teacher may differ before it is warned of


def teacher_ready(
    components: Components, run: RunFolder, display: Display, stop: StopRequest, trackers: Trackers | None
) -> Components:
    """The components with a teacher that has had its training: before this run, in an earlier part of it, or now."""
    settings, network = components.recipe.teacher, components.teacher_network
    if settings is None or network is None or settings.train_epochs == 0:
        return components
    if run.teacher.is_dir():
        load_weights(network.module, run.teacher, name=network.name)
        if components.world.is_first:  # the call that kept it may have died before it cleared up
            checkpoint.remove(run.checkpoints, "teacher")
    else:
        _train(components, run, display, stop, trackers)
        if components.world.is_first:
            _keep(components, network, run)
        components.world.exchange(0)  # nobody goes on before the folder is there
    epochs = plural(settings.train_epochs, "epoch")
    network = replace(network, starts_from=f"{network.starts_from}, then trained here for {epochs}")
    return with_teacher(components, network)


def _keep(components: Components, network: Network, run: RunFolder) -> None:
    """Write the trained teacher, whole or not at all."""
    partial = run.path / ".teacher.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save_student(
        partial,
        network,
        label_names=components.data.classes,
        image_size=components.teacher_size or components.kept_size,
        crop_share=components.crop_share,
    )
    partial.rename(run.teacher)
    checkpoint.remove(run.checkpoints, "teacher")


def evaluate_teacher(components: Components, *, stop: StopRequest | None = None) -> dict[str, Evaluation]:
    """Its scores on every split that is evaluated, or those in its bank; none where its classes are not the data's.

    Of several teachers those of the first.

    Raises:
        Interrupted: `stop` wants it; there is nothing to save.
    """
    components = teachers_apart(components)[None]
    kept = None if components.teacher is None else components.teacher.kept_scores()
    if kept is not None:
        return _restored(components, kept)
    teacher = components.teacher_of(components.recipe.seeds[0])
    if teacher is None or not components.teacher_shares_classes:
        return {}
    splits = ["val"] if components.data.test is None else ["val", "test"]
    return {
        split: components.task.evaluate(
            {"teacher": lambda batch: teacher.observe(batch).output},
            (stop or StopRequest()).stoppable(components.eval_loader(split), components.world, before=lambda: 0),
            components.device,
            components.world,
        )["teacher"]
        for split in splits
    }


def _restored(components: Components, kept: Mapping[str, KeptScores]) -> dict[str, Evaluation]:
    """The evaluations that a bank has kept.

    Raises:
        UserError: it kept those of another task.
    """
    assert components.teacher is not None
    try:
        return {split: components.task.restored(found.scores, found.tensors) for split, found in kept.items()}
    except LookupError as error:
        raise UserError(
            f"{components.teacher.name} does not hold {error} of its teacher's scores, as one of this task does; make "
            "the bank anew"
        ) from None


def check_teacher(components: Components, found: Evaluation | None, *, say: Callable[[str], None]) -> None:
    """Say what the teacher is worth, of several the first; stop where it has nothing to teach.

    Raises:
        UserError: the task finds it no better than one that has learnt nothing, unless the recipe allows a weak one.
    """
    components = teachers_apart(components)[None]
    settings, task = components.recipe.teacher, components.task
    assert settings is not None
    assert components.teacher is not None
    size, starts_from = compact(components.teacher.facts()["parameters"]), components.teacher.origin
    if found is None:
        say(f"teacher  {settings.model}   {size} parameters   other classes than the data's, so it is not scored")
        return
    metric = headline_metric(task)
    reached = with_unit(score(found.scores[metric.name], metric), metric)
    say(f"teacher  {settings.model}   {size} parameters   val {metric.title} {reached}   {starts_from}")
    for note in components.teacher.notes:
        say(f"note     {note}")
    worthless = task.nothing_to_teach(found)
    if worthless is not None and not settings.allow_weak:
        raise UserError(
            f"teacher {settings.model} {worthless}. {_way_out(settings, starts_from)}, or go on all the same with "
            "--allow-weak-teacher (allow_weak_teacher=True in Python)."
        )
    for warning in _off_expected(settings, found, task):
        say(f"warning  {warning}")


def _off_expected(settings: TeacherConfig, found: Evaluation, task: Task) -> Iterator[str]:
    """How far the teacher is from what was published of it, where that is worth saying."""
    expected, metric = settings.expected, headline_metric(task)
    if settings.expected_top1 is not None:
        known = {metric.name: metric for metric in task.metrics}
        if EXPECTED_METRIC not in known:
            yield f"teacher.expected_top1 is compared with nothing: this task has {', '.join(known)}"
            return
        expected, metric = settings.expected_top1, known[EXPECTED_METRIC]
    if expected is None:
        return
    off = found.scores[metric.name] - expected
    if abs(off) > EXPECTED_WITHIN:
        yield f"the teacher was expected at {expected:.2f} {metric.unit}, {off:+.2f} points off"


def _way_out(settings: TeacherConfig, starts_from: str) -> str:
    """What may be wrong with a teacher that knows nothing."""
    if settings.train_epochs:
        epochs = plural(settings.train_epochs, "epoch")
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


def _train(
    components: Components, run: RunFolder, display: Display, stop: StopRequest, trackers: Trackers | None = None
) -> None:
    """Fine-tune the teacher's own network, in place, on the run's training data."""
    recipe, network = components.recipe, components.teacher_network
    assert recipe.teacher is not None
    assert network is not None
    seed, world = recipe.seeds[0], components.world
    if (teacher := components.teacher_of(seed)) is not None:
        teacher.tap(())  # nobody looks while it is trained
    model = TappedModel(network.module, prepare=network.prepare, name=f"teacher {network.name}").to(components.device)
    row = row_named(recipe, "alone")
    update = row.update if recipe.teacher.lr is None else row.update.model_copy(update={"lr": recipe.teacher.lr})
    student = Student(
        "teacher",
        model,
        task=components.task,
        update=update.build(parameters_of(model.module, []), undecayed=undecayed_names(model.module)),
        schedule=recipe.schedule.in_proportion(recipe.epochs, to=recipe.teacher.train_epochs),
        seed=hashed(seed, "teacher") if world.is_first else hashed(seed, "teacher", world.rank),
        precision=recipe.precision,
        accumulate=recipe.accumulate,
        world=world,
    )
    world.copy_from_first_(list(model.state_dict().values()))
    trainer = Trainer([student], teacher=None, device=components.device, log_every=recipe.log_every, world=world)
    watch = partial(RunWatcher, display=display, stop=stop, world=world, trackers=trackers)
    watcher = watch(run, recipe, tag="teacher", seed=seed, label="teacher")
    image_size = components.teacher_size or components.image_size
    loader = train_loader(
        components.data,
        recipe.data,
        seed=hashed(seed, "teacher"),
        image_size=image_size,
        device=components.device,
        mean=network.mean,
        std=network.std,
        rank=world.rank,
        world_size=world.size,
    )
    val = eval_loader(
        components.data.val,
        recipe.data,
        image_size=image_size,
        device=components.device,
        rank=world.rank,
        world_size=world.size,
    )
    epochs = recipe.teacher.train_epochs
    with display.stretch(epochs * loader.steps_per_epoch, images_per_step=recipe.data.batch_size):
        watcher.fit(trainer, loader, epochs=epochs, val=val)
