"""Updates: how the losses of a step become new weights, jointly or by DOT's separate momenta.

Every module of this folder is imported, so that its update is registered.
"""

from importlib import import_module
from pkgutil import iter_modules

from understudy.optim.base import (
    DEFAULT_UPDATE,
    UPDATES,
    Update,
    UpdateConfig,
    row_suffix,
    update_names,
    update_of_row,
    word_in_row,
)
from understudy.optim.dot.deepkd import DeepKD
from understudy.optim.dot.update import DOT
from understudy.optim.dot.weights import DOTWeights
from understudy.optim.joint import Joint
from understudy.optim.parameter_groups import undecayed_names
from understudy.optim.schedule import Schedule, lr_factor

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "DEFAULT_UPDATE",
    "DOT",
    "UPDATES",
    "DOTWeights",
    "DeepKD",
    "Joint",
    "Schedule",
    "Update",
    "UpdateConfig",
    "lr_factor",
    "row_suffix",
    "undecayed_names",
    "update_names",
    "update_of_row",
    "word_in_row",
]
