"""Averages of a student's weights over the steps of training, which are evaluated and deployed in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from understudy.core.config import Config

__all__ = ["Averaging", "WeightAverage"]


class Averaging(Config):
    """Settings of the average. Without a warm-up it is the one of DIST's and timm's older recipes."""

    decay: float = Field(default=0.9999, ge=0, lt=1)  # of the average per step; DIST's strategy B2
    after_steps: int = Field(default=0, ge=0)  # until then the average is a copy
    warmup: bool = False  # True: decay rises as 1 - (1 + steps)^-warmup_power up to `decay`
    warmup_power: float = Field(default=2 / 3, gt=0)  # timm's; 2/3 for a million steps, 3/4 for fewer


class WeightAverage:
    """An exponential moving average of everything that a module's state holds, by timm's ModelEmaV3.

    Parameters and buffers (running means and variances) are averaged alike, counts are copied, as in timm. The
    average lives beside the module, in evaluation mode, and starts as its copy. Whatever is deployed can be averaged,
    with connectors where a method deploys them.

    Args:
        module: what is averaged, as it begins.
        config: the settings.
    """

    def __init__(self, module: nn.Module, config: Averaging) -> None:
        self.config = config
        self._average = ModelEmaV3(
            module,
            decay=config.decay,
            update_after_step=config.after_steps,
            use_warmup=config.warmup,
            warmup_power=config.warmup_power,
        )
        self.module.requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The average as a network like the one that is averaged, in evaluation mode."""
        module: nn.Module = self._average.module
        return module

    def update(self, module: nn.Module, *, step: int) -> None:
        """Take in the weights after a step, the first of which has number 1."""
        # timm copies at step 1 where it is told steps; the plain average, as the recipes ran it, never copies.
        is_plain = not self.config.warmup and self.config.after_steps == 0
        self._average.update(module, None if is_plain else step)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights; the decay is a function of the step."""
        state: dict[str, Any] = self.module.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.module.load_state_dict(state)
