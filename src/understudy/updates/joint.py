"""Joint: one gradient of the summed losses, as most of the field trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import ValidationInfo, field_validator
from torch import nn

from understudy.step import Losses
from understudy.updates.base import UpdateConfig, scale_lr_

__all__ = ["Joint"]


class Joint:
    """Minimises task + distill with any optimizer of torch.

    Args:
        optimizer: holds the parameters; its state is this update's state.
        clip_norm: longest gradient of a step, over all parameters together; None: as long as it comes.
    """

    class Config(UpdateConfig):
        """SGD with momentum (Nesterov's where asked for), or AdamW."""

        only_with = UpdateConfig.only_with | {"nesterov": "sgd"}
        name: Literal["joint"] = "joint"
        nesterov: bool = False

        @field_validator("nesterov")
        @classmethod
        def _has_a_momentum_to_look_ahead_with(cls, nesterov: bool, info: ValidationInfo) -> bool:
            if nesterov and info.data.get("momentum") == 0:
                raise ValueError("needs a momentum above 0, got 0")
            return nesterov

        def build(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> Joint:
            """A Joint around torch's SGD or AdamW."""
            groups = self.groups(parameters)
            optimizer: torch.optim.Optimizer
            # Fused: on the CPU too, where torch would loop over the parameters in Python unless told otherwise.
            if self.optimizer == "adamw":
                betas = (self.momentum, self.beta2)
                optimizer = torch.optim.AdamW(groups, self.lr, betas, self.eps, self.weight_decay, fused=True)
            else:
                optimizer = torch.optim.SGD(
                    groups,
                    self.lr,
                    momentum=self.momentum,
                    weight_decay=self.weight_decay,
                    nesterov=self.nesterov,
                    fused=True,
                )
            return Joint(optimizer, clip_norm=self.clip_norm)

    def __init__(self, optimizer: torch.optim.Optimizer, *, clip_norm: float | None = None) -> None:
        self.optimizer = optimizer
        self.clip_norm = clip_norm

    def __call__(self, losses: Losses) -> None:
        """One backward pass of the sum, and one step."""
        total = losses.task if losses.distill is None else losses.task + losses.distill
        total.backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def lr(self) -> float:
        """Learning rate of the next step, of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def set_lr_factor(self, factor: float) -> None:
        """Scale every parameter group's learning rate to `factor` times its own initial one."""
        scale_lr_(self.optimizer, factor)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's: momenta, step counts, learning rates."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.optimizer.load_state_dict(state)
