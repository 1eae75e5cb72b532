"""What every update is: losses in, new weights out; and the settings that all of them share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from understudy.config import Config, UserError
from understudy.step import Losses

__all__ = ["Update", "UpdateConfig", "scale_lr_"]


class Update(Protocol):
    """Turns the losses of one step into new weights. It sees scalars and parameters, nothing else."""

    def __call__(self, losses: Losses) -> None:
        """Backward pass(es) and one step."""

    @property
    def lr(self) -> float:
        """Learning rate of the next step, of the first parameter group."""

    def set_lr_factor(self, factor: float) -> None:
        """Scale every parameter group's learning rate to `factor` times its own initial one."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""


class UpdateConfig(Config):
    """Settings that every update has. Under AdamW `momentum` is beta_1."""

    only_with: ClassVar[dict[str, str]] = {"beta2": "adamw", "eps": "adamw"}  # settings that one optimizer reads

    name: str
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.05, gt=0)  # with SGD and 64 images per step, Tian et al. 2020; AdamW wants about 1e-3
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)  # Tian et al. 2020
    decay_norm_and_bias: bool = True  # False: parameters with one axis or none (norms, biases) are not decayed
    clip_norm: float | None = Field(default=None, gt=0)  # longest gradient of a step, over all parameters together
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)

    @field_validator("*")
    @classmethod
    def _is_read(cls, value: Any, info: ValidationInfo) -> Any:
        """A value that the chosen optimizer would silently ignore is a mistake."""
        field = str(info.field_name)
        reader, chosen = cls.only_with.get(field), info.data.get("optimizer")
        if reader and chosen not in (None, reader) and value != cls.model_fields[field].default:
            raise ValueError(f"belongs to optimizer {reader}, not to {chosen}; leave it out, got {value!r}")
        return value

    def build(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> Update:
        """The update of these named parameters; frozen ones are left out.

        Raises:
            UserError: none of the parameters is trainable.
        """
        raise NotImplementedError(f"update {self.name!r} defines no build")

    def groups(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
        """The trainable ones of the parameters as torch's parameter groups, apart where their weight decay differs."""
        trainable = [parameter for _, parameter in parameters if parameter.requires_grad]
        if not trainable:
            raise UserError("there is nothing to train: no parameter requires a gradient; unfreeze some of the student")
        if self.decay_norm_and_bias:
            return [{"params": trainable}]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in trainable if parameter.ndim > 1]},
            {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


def scale_lr_(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times the one it had at the first call (`initial_lr`)."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
