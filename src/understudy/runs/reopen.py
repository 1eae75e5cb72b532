"""What a finished run was about, from its folder alone: recipe, results, student and teacher."""

from __future__ import annotations

import torch
from torch import nn

from understudy.core.image_size import ImageSize, height_and_width
from understudy.models import Network, create_model, load_student
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

__all__ = ["image_sizes", "recipe_of", "refuse_what_python_made", "results_of", "student_of", "teacher_of"]


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


def refuse_what_python_made(run: RunFolder) -> None:
    """Networks and data that were handed over in Python cannot be named again from a command line."""
    if recipe_of(run).data.root.startswith("python:"):
        raise UserError(
            f"{run.path} was made by understudy.distill from objects in Python; there, "
            f"understudy.load_student({str(run.student)!r}, module=...) reads its student"
        )


def student_of(run: RunFolder, *, allow_code: bool) -> nn.Module:
    """The deployed student, in evaluation mode, taking images in [0,1]; also one that its method has added to."""
    recipe, found = recipe_of(run), results_of(run)
    row = next((row for row in rows_of(recipe) if found.deployed and row.name == found.deployed.row), None)
    if row is None:
        raise UserError(f"{run.results_file} deploys no row of {run.recipe_file}; were these written by one run?")
    if not any(config.method.deploys_more() for config in row.method):
        return load_student(run.student, allow_code=allow_code)
    return load_student(run.student, module=_deployed_form(run, row, allow_code=allow_code))


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
        task=TASKS[recipe.task].for_data(num_classes),
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
