"""Tasks: what is predicted, its own loss and its scores."""

from understudy.tasks.base import Evaluation, Task
from understudy.tasks.classification import Classification, class_weights_for

__all__ = ["Classification", "Evaluation", "Task", "class_weights_for"]
