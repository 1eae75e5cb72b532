"""Teachers beside the first, each for one head of the student: scored, and refused where one knows nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from understudy.report.formatting import score, with_unit
from understudy.results.schema import HeadsTeacher, Scores
from understudy.runs.component_changes import teachers_apart
from understudy.runs.components import Components
from understudy.runs.stop import StopRequest
from understudy.runs.teacher import evaluate_teacher
from understudy.tasks import Evaluation
from understudy.tasks.base import headline_metric
from understudy.utils.errors import UserError

__all__ = ["check_further_teachers", "evaluate_further_teachers", "scored_further_teachers"]

Found = Mapping[str, Mapping[str, Evaluation]]  # by head, by split


def evaluate_further_teachers(components: Components, *, stop: StopRequest | None = None) -> Found:
    """Scores of every teacher but the first, by the head that learns from it, on every split; of banks those kept.

    Raises:
        Interrupted: `stop` wants it; there is nothing to save.
    """
    found: dict[str, dict[str, Evaluation]] = {}
    for head, alone in teachers_apart(components).items():
        if head is not None:
            found[head] = evaluate_teacher(alone, stop=stop)
    return found


def check_further_teachers(components: Components, found: Found, *, say: Callable[[str], None]) -> None:
    """Say what each is worth; stop where one has nothing to teach.

    Raises:
        UserError: the task finds one no better than one that has learnt nothing, unless the recipe allows a weak one.
    """
    settings, metric = components.recipe.teacher, headline_metric(components.task)
    if settings is None:
        return
    for head, of_splits in found.items():
        model = settings.also[head].model
        say(f"teacher  {model}   of {head}   val {metric.title} {_reached(of_splits, components)}")
        worthless = components.task.nothing_to_teach(of_splits["val"])
        if worthless is not None and not settings.allow_weak:
            raise UserError(
                f"teacher {model}, which the head {head!r} learns from, {worthless}. Give it weights "
                f"(teacher.also.{head}.weights), or go on all the same with --allow-weak-teacher "
                "(allow_weak_teacher=True in Python)."
            )


def scored_further_teachers(components: Components, found: Found) -> tuple[HeadsTeacher, ...]:
    """As results.json keeps them."""
    settings = components.recipe.teacher
    assert settings is not None
    return tuple(
        HeadsTeacher(
            head=head,
            model=settings.also[head].model,
            **{split: Scores(scores=dict(evaluation.scores)) for split, evaluation in of_splits.items()},
        )
        for head, of_splits in found.items()
    )


def _reached(of_splits: Mapping[str, Evaluation], components: Components) -> str:
    metric = headline_metric(components.task)
    return with_unit(score(of_splits["val"].scores[metric.name], metric), metric)
