"""Teachers beside the first, each for one head of the student: scored, and refused where one knows nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from understudy.core.batch import Batch
from understudy.core.outputs import LOGITS
from understudy.core.precision import autocast
from understudy.models.several import SeveralNetworks
from understudy.report.formatting import score, with_unit
from understudy.results.schema import HeadsTeacher, Scores
from understudy.runs.components import Components
from understudy.runs.stop import StopRequest
from understudy.tasks import Evaluation
from understudy.tasks.base import headline_metric
from understudy.utils.errors import UserError

__all__ = ["check_further_teachers", "evaluate_further_teachers", "scored_further_teachers"]

Found = Mapping[str, Mapping[str, Evaluation]]  # by head, by split


def evaluate_further_teachers(components: Components, *, stop: StopRequest | None = None) -> Found:
    """Scores of every teacher but the first, by the head that learns from it, on every split that is evaluated.

    Raises:
        Interrupted: `stop` wants it; there is nothing to save.
    """
    network = components.teacher_network
    if network is None or not isinstance(network.module, SeveralNetworks) or not components.teacher_shares_classes:
        return {}
    networks = network.module.to(components.device).eval().networks

    def looks(head: str) -> Callable[[Batch], Tensor]:
        def look(batch: Batch) -> Tensor:
            images = batch.images if batch.teacher_images is None else batch.teacher_images
            with autocast(components.recipe.precision, components.device):
                logits: Tensor = networks[head](images)
            return logits.float()

        return look

    heads = [head for head in networks if head != LOGITS]
    found: dict[str, dict[str, Evaluation]] = {head: {} for head in heads}
    for split in ["val"] if components.data.test is None else ["val", "test"]:
        batches = (stop or StopRequest()).stoppable(components.eval_loader(split), components.world, before=lambda: 0)
        scores = components.task.evaluate(
            {head: looks(head) for head in heads}, batches, components.device, components.world
        )
        for head in heads:
            found[head][split] = scores[head]
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
