"""Updates: how the losses of a step become new weights, jointly or by DOT's separate momenta."""

from understudy.config import UserError, unknown_name
from understudy.updates.base import Update, UpdateConfig, undecayed_names
from understudy.updates.dot import DOT
from understudy.updates.joint import Joint
from understudy.updates.schedules import Schedule, lr_factor

__all__ = [
    "DOT",
    "UPDATES",
    "Joint",
    "Schedule",
    "Update",
    "UpdateConfig",
    "lr_factor",
    "undecayed_names",
    "update_named",
]

UPDATES: dict[str, type[Joint] | type[DOT]] = {"joint": Joint, "dot": DOT}


def update_named(name: str) -> type[Joint] | type[DOT]:
    """The update registered under `name`; its settings are its `Config`.

    Raises:
        UserError: no such update; the text names the nearest one, or lists them.
    """
    if name not in UPDATES:
        raise UserError(f"update {name!r} is {unknown_name(name, UPDATES)}")
    return UPDATES[name]
