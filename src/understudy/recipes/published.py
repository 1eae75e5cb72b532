"""What was published, held to the metrics of the recipe's task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic_core import PydanticCustomError

from understudy.core.published import Published
from understudy.tasks import TASKS
from understudy.utils.errors import unknown_name

__all__ = ["check_published"]


def check_published(task: str, sources: Mapping[str, Sequence[Published]]) -> None:
    """Refuse what is no metric of the task, percentages that are none, and sources without the headline.

    Args:
        task: its name in a recipe.
        sources: by the key path that they stand under.

    Raises:
        PydanticCustomError: with all problems, within a validator.
    """
    problems = [
        (f"{path}.{number}.{key}", problem)
        for path, listed in sources.items()
        for number, source in enumerate(listed)
        for key, problem in _problems(task, source)
    ]
    if problems:
        raise PydanticCustomError("nested", "see the problems", {"problems": problems})


def _problems(task: str, source: Published) -> Iterator[tuple[str, str]]:
    metrics = {metric.name: metric for metric in TASKS[task].metrics}
    if TASKS[task].headline not in source.scores:
        yield TASKS[task].headline, "is missing"
    for name, score in source.scores.items():
        if name not in metrics:
            yield name, unknown_name(name, [*metrics, *Published.model_fields])
        elif metrics[name].is_of_100 and not 0 <= score <= 100:
            yield name, f"is a percentage from 0 to 100, got {score:g}"
