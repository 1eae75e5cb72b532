"""Tasks: what is predicted, its own loss and its scores."""

from understudy.tasks.base import BatchMeasures, Evaluation, Metric, Task
from understudy.tasks.class_evaluation import ClassEvaluation
from understudy.tasks.class_weights import class_weights_for
from understudy.tasks.classification import Classification

__all__ = [
    "TASKS",
    "BatchMeasures",
    "ClassEvaluation",
    "Classification",
    "Evaluation",
    "Metric",
    "Task",
    "class_weights_for",
]

TASKS: dict[str, type[Task]] = {"classification": Classification}  # by the name that a recipe says
