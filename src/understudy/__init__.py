"""Knowledge distillation of vision models.

One call: `distill`. Composed by hand: `trainer`, `LiveTeacher`, `StudentSpec`. In a loop of your own: `DOT` and the
losses. What is not listed here may change without notice.
"""

from understudy import methods
from understudy.api import Result, distill, trainer
from understudy.config import UserError
from understudy.data import DataConfig
from understudy.methods.base import Context, LossWeights, Method, MethodConfig
from understudy.methods.dist import dist_loss
from understudy.methods.dkd import dkd_loss
from understudy.methods.kd import kd_loss
from understudy.methods.projector import projector_loss
from understudy.models import create_model, load_student
from understudy.recipe import Recipe, load_recipe
from understudy.spec import StudentSpec
from understudy.step import Batch, Losses, Observation, Pairing
from understudy.student import Student
from understudy.taps import TappedModel, Taps
from understudy.tasks import Classification
from understudy.teachers import LiveTeacher
from understudy.training import Trainer
from understudy.updates import DOT, Joint, Schedule, lr_factor

__all__ = [
    "DOT",
    "Batch",
    "Classification",
    "Context",
    "DataConfig",
    "Joint",
    "LiveTeacher",
    "LossWeights",
    "Losses",
    "Method",
    "MethodConfig",
    "Observation",
    "Pairing",
    "Recipe",
    "Result",
    "Schedule",
    "Student",
    "StudentSpec",
    "TappedModel",
    "Taps",
    "Trainer",
    "UserError",
    "create_model",
    "dist_loss",
    "distill",
    "dkd_loss",
    "kd_loss",
    "load_recipe",
    "load_student",
    "lr_factor",
    "methods",
    "projector_loss",
    "trainer",
]
