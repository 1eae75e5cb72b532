"""What every update is: losses in, new weights out."""

from __future__ import annotations

from typing import Any, Protocol

from understudy.step import Losses

__all__ = ["Update"]


class Update(Protocol):
    """Turns the losses of one step into new weights. It sees scalars and parameters, nothing else."""

    def __call__(self, losses: Losses) -> None:
        """Backward pass(es) and one step."""

    def set_lr_factor(self, factor: float) -> None:
        """Scale every parameter group's learning rate to `factor` times its own initial one."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
