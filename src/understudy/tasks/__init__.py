"""Tasks: what is predicted, its own loss and its scores."""

from understudy.tasks.base import BatchMeasures, Evaluation, Metric, Task
from understudy.tasks.box_evaluation import BoxEvaluation
from understudy.tasks.class_evaluation import ClassEvaluation
from understudy.tasks.class_weights import class_weights_for
from understudy.tasks.classification import Classification
from understudy.tasks.detection import Detection, DetectionConfig, DetectorLike
from understudy.tasks.pixel_evaluation import PixelEvaluation
from understudy.tasks.segmentation import Segmentation, SegmentationConfig

__all__ = [
    "TASKS",
    "BatchMeasures",
    "BoxEvaluation",
    "ClassEvaluation",
    "Classification",
    "Detection",
    "DetectionConfig",
    "DetectorLike",
    "Evaluation",
    "Metric",
    "PixelEvaluation",
    "Segmentation",
    "SegmentationConfig",
    "Task",
    "class_weights_for",
]

# By the name that a recipe says.
TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "detection": Detection,
}
