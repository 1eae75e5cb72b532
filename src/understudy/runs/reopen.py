"""What a finished run was about, from its folder alone: recipe, results, student and teacher."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from understudy.core.image_size import ImageSize, height_and_width
from understudy.models import Network, create_model, load_student_network
from understudy.recipes.comparison import Variant, rows_of
from understudy.recipes.own_methods import stand_in_for
from understudy.recipes.schema import Recipe, StudentConfig, TeacherConfig, recipe_from
from understudy.report import Results, read_results
from understudy.runs.folder import RunFolder
from understudy.tasks import TASKS
from understudy.teachers import LiveTeacher
from understudy.training.build import BuildContext, build_student, tap_teacher
from understudy.training.spec import StudentSpec
from understudy.utils.errors import UserError

__all__ = [
    "built_alike",
    "image_sizes",
    "made_by_python",
    "recipe_of",
    "results_of",
    "row_network_of",
    "student_network_of",
    "student_of",
    "teacher_of",
]


def recipe_of(run: RunFolder) -> Recipe:
    """The recipe in a run folder, which may come from anywhere."""
    written = run.recipe()
    stand_in_for(written)
    return recipe_from(written, what=f"recipe of {run.path}")


def results_of(run: RunFolder) -> Results:
    """The results in a run folder.

    Raises:
        UserError: there are none, or damaged ones.
    """
    run.results()  # says what to do then
    return read_results(run.path)


def image_sizes(run: RunFolder) -> tuple[ImageSize, ImageSize]:
    """Sizes of the images that student and teacher take."""
    results = results_of(run)
    size = results.rows[0].student.image_size if results.rows else None
    if size is None:
        raise UserError(f"{run.results_file} does not say the size of the student's images; was it written by a run?")
    return size, (results.teacher and results.teacher.image_size) or size


def made_by_python(run: RunFolder) -> bool:
    """Whether networks and data were handed over in Python, so that no name opens them again."""
    return recipe_of(run).data.root.startswith("python:")


def student_of(run: RunFolder, *, allow_code: bool, module: nn.Module | None = None) -> nn.Module:
    """The deployed student, in evaluation mode, taking images in [0,1]; also one that its method has added to."""
    return student_network_of(run, allow_code=allow_code, module=module).prepared.eval()


def student_network_of(run: RunFolder, *, allow_code: bool, module: nn.Module | None = None) -> Network:
    """The deployed student as a Network.

    Args:
        run: a finished run.
        allow_code: let the run name a factory in somebody's own code.
        module: built like the student that Python handed over (like what its method deploys), whose weights are
            replaced.

    Raises:
        UserError: there is no student, or Python made it and no module is given.
    """
    recipe, found = recipe_of(run), results_of(run)
    row = next((row for row in rows_of(recipe) if found.deployed and row.name == found.deployed.row), None)
    if row is None and not (made_by_python(run) and module is None):
        raise UserError(f"{run.results_file} deploys no row of {run.recipe_file}; were these written by one run?")
    return _network_in(run, run.student, row, allow_code=allow_code, module=module)


def row_network_of(
    run: RunFolder, row: Variant, seed: int, *, allow_code: bool, module: nn.Module | None = None
) -> Network:
    """The student of any row and seed; arguments and errors as of `student_network_of`."""
    return _network_in(run, run.students / row.name / f"seed{seed}", row, allow_code=allow_code, module=module)


def _network_in(
    run: RunFolder, folder: Path, row: Variant | None, *, allow_code: bool, module: nn.Module | None
) -> Network:
    if row is None or (made_by_python(run) and module is None):
        raise UserError(
            f"{run.path} was made by understudy.distill from objects in Python; give a network that is built like its "
            "student: --module FILE.py:CLASS --allow-code here, module=... in Python"
        )
    if module is None and any(config.method.deploys_more() for config in row.method):
        module = _deployed_form(run, row, allow_code=allow_code)
    return load_student_network(folder, module=module, allow_code=allow_code)


def built_alike(run: RunFolder, factory: str | None, *, allow_code: bool) -> nn.Module | None:
    """What a factory of somebody's own code builds for the run's classes; None without one.

    Raises:
        UserError: code is not allowed, or there is no such factory.
    """
    if factory is None:
        return None
    num_classes = results_of(run).data.num_classes
    return create_model(factory, num_classes=num_classes, weights="none", allow_code=allow_code).module


def teacher_of(run: RunFolder, *, allow_code: bool) -> nn.Module | None:
    """The teacher's network for timing, with whatever weights; None where there is none to be built by name."""
    recipe = recipe_of(run)
    settings = recipe.teacher
    if settings is None or ":" not in settings.model:
        return None
    return _network_of(settings, run, allow_code=allow_code).prepared.eval()


def _deployed_form(run: RunFolder, row: Variant, *, allow_code: bool) -> nn.Module:
    """The row's student as its methods deploy it, with random weights."""
    recipe, num_classes = recipe_of(run), results_of(run).data.num_classes
    wrapping = [config for config in row.method if config.method.deploys_more()]
    methods = [config.model_copy(update={"init_from": None}) for config in wrapping]
    assert recipe.teacher is not None, "a row with a method has a teacher"
    student_size, teacher_size = image_sizes(run)
    student = _network_of(recipe.student, run, allow_code=allow_code)
    teacher = LiveTeacher(_network_of(recipe.teacher, run, allow_code=allow_code).module)
    tap_teacher(teacher, methods)
    around = BuildContext(
        task=TASKS[recipe.task].for_data(num_classes, **recipe.task_settings),
        num_classes=num_classes,
        sample=torch.zeros(2, 3, *height_and_width(student_size)),
        teacher=teacher,
        teacher_sample=torch.zeros(2, 3, *height_and_width(teacher_size)),
    )
    return build_student(StudentSpec(student.module, method=methods), around).deployed()


def _network_of(model: StudentConfig | TeacherConfig, run: RunFolder, *, allow_code: bool) -> Network:
    """The network that the run's recipe names, with random weights."""
    return create_model(
        model.model,
        num_classes=results_of(run).data.num_classes,
        weights="none",
        image_size=model.size_asked_for(recipe_of(run).data),
        allow_code=allow_code,
        kwargs=model.kwargs,
    )
