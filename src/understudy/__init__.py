"""Knowledge distillation of vision models.

One call: `distill`. Composed by hand: `trainer`, `LiveTeacher`, `StudentSpec`. In a loop of your own: `DOT` and the
losses. What is not listed here may change without notice.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from understudy.utils.timm_hook import register_with_timm

if TYPE_CHECKING:
    from understudy.api.public import *  # noqa: F403

__all__ = [  # noqa: F405
    "DOT",
    "Batch",
    "Boxes",
    "Classification",
    "Context",
    "DataConfig",
    "DeepKD",
    "Detection",
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
    "Segmentation",
    "Student",
    "StudentSpec",
    "TappedModel",
    "Taps",
    "Trainer",
    "UserError",
    "analyze",
    "create_model",
    "detector",
    "dist_loss",
    "distill",
    "dkd_loss",
    "evaluate",
    "export",
    "kd_loss",
    "load_recipe",
    "load_student",
    "lr_factor",
    "methods",
    "predict",
    "projector_loss",
    "trainer",
]


def __getattr__(name: str) -> Any:
    """A public name or a module of this package, imported when it is asked for: torch alone takes seconds."""
    if name in __all__:
        found = getattr(import_module("understudy.api.public"), name)
    elif not name.startswith("_") and find_spec(f"understudy.{name}") is not None:
        found = import_module(f"understudy.{name}")
    else:
        raise AttributeError(f"module 'understudy' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_timm()
