"""Tasks: what is predicted, its own loss and its scores."""

from understudy.tasks.base import BatchMeasures, Evaluation, Metric, Task
from understudy.tasks.class_evaluation import ClassEvaluation
from understudy.tasks.classification import Classification, class_weights_for

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

TASKS = {"classification": Classification}  # by the name that a recipe says
