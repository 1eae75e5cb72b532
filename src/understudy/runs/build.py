"""The trainer of one seed, with a student for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from understudy.models import Network
from understudy.recipes.comparison import Variant
from understudy.runs.components import Components
from understudy.training import build as specs
from understudy.training.build import tap_teacher
from understudy.training.spec import StudentSpec
from understudy.training.student import Student
from understudy.training.trainer import Trainer
from understudy.utils.hashing import hashed
from understudy.utils.seeding import seeded

__all__ = ["build_student", "build_trainer", "deployed_network"]


def build_trainer(
    components: Components, rows: Sequence[Variant], seed: int, *, say: Callable[[str], None] = lambda note: None
) -> Trainer:
    """The trainer of one seed, with a student for every row; `say` is told what its steps turn out to be.

    Raises:
        UserError: what a student or its methods cannot be built of; steps that must be captured and cannot be.
    """
    teacher = components.teacher_of(seed)
    if teacher is not None:
        tap_teacher(teacher, [config for row in rows for config in row.method])
    recipe = components.recipe
    return Trainer(
        [build_student(components, row, seed) for row in rows],
        teacher=teacher,
        device=components.device,
        log_every=recipe.log_every,
        stops_at_nan=recipe.on_nan != "continue",
        selects_best=recipe.select_on != "last",
        world=components.world,
        capture=recipe.capture,
        say=say,
        probes=recipe.probes,
        probe_every=recipe.probe_every,
    )


def build_student(components: Components, row: Variant, seed: int) -> Student:
    """A fresh student: same first weights for every row of a seed, whatever other rows there are."""
    with seeded(hashed(seed, "weights")):
        network = components.make_student()
    recipe = components.recipe
    spec = StudentSpec(
        network.module,
        method=row.method,
        update=row.update,
        schedule=recipe.schedule,
        task_weight=row.task_weight,
        name=row.name,
        prepare=network.prepare,
        ema=recipe.ema,
        precision=recipe.precision,
        accumulate=recipe.accumulate,
        compile=recipe.compile,
    )
    return specs.build_student(spec, components.build_context(seed))


def deployed_network(components: Components, student: Student) -> Network:
    """What is saved and counted of a trained student: its network, or what its method makes of it."""
    deployed = student.deployed()
    if student.raw_deployed() is student.model.module:
        return replace(components.student_network, module=deployed)
    # No name can rebuild it: load_student wants a module that is built alike.
    return replace(components.student_network, module=deployed, name=type(deployed).__name__, kwargs={})
