"""Averages of a student's weights over the steps of training, which are evaluated and deployed in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from understudy.core.config import Config
from understudy.optim.device_numbers import DeviceNumbers

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
        dtypes = {value.dtype for value in self.module.state_dict().values() if value.is_floating_point()}
        # Weights in bfloat16 are rounded by chance, which a recording would have to be told of.
        self.is_replayable = dtypes in ({torch.float32}, {torch.float64})  # as part of a step that is replayed
        self._dtype = next(iter(dtypes), torch.float32)
        self._is_prepared = False  # for steps that are captured
        self._share: DeviceNumbers | None = None  # of the new weights, on the device where it changes from step to step

    @property
    def module(self) -> nn.Module:
        """The average as a network like the one that is averaged, in evaluation mode."""
        module: nn.Module = self._average.module
        return module

    def update(self, module: nn.Module, *, step: int) -> None:
        """Take in the weights after a step, the first of which has number 1."""
        if not self._is_prepared:
            self._average.update(module, self._timms(step))
        elif self._share is None:
            self._take_in(module, 1.0 - self._decay(step))
        else:
            self._take_in(module, self._share.tensors["share"])

    def prepare_capture(self, device: torch.device) -> None:
        """Keep what changes from step to step on the device from now on, in whatever step."""
        self._is_prepared = self.is_replayable
        if self.is_replayable and self.config.warmup:
            self._share = DeviceNumbers(["share"], device=device, dtype=self._dtype)

    def begin_step(self, step: int) -> None:
        """Give it its value for the step with this number; no part of a recording."""
        if self._share is not None:
            self._share.set({"share": 1.0 - self._decay(step)})

    def baked_in(self, step: int) -> float | None:
        """The decay, where a recording of the step with this number has it in it."""
        is_elsewhere = self._share is not None or not self.is_replayable
        return None if is_elsewhere else self._decay(step)

    def _decay(self, step: int) -> float:
        return float(self._average.get_decay(self._timms(step)))

    def _timms(self, step: int) -> int | None:
        # timm copies at step 1 where it is told steps; the plain average, as the recipes ran it, never copies.
        is_plain = not self.config.warmup and self.config.after_steps == 0
        return None if is_plain else step

    @torch.no_grad()
    def _take_in(self, module: nn.Module, share: Tensor | float) -> None:
        """What timm does with 1 - share, in few kernels and with a share that may be read from the device."""
        ours, theirs = list(self.module.state_dict().values()), list(module.state_dict().values())
        places = [place for place, value in enumerate(ours) if value.is_floating_point()]
        averaged, new = [ours[place] for place in places], [theirs[place] for place in places]
        if isinstance(share, Tensor):
            torch._foreach_lerp_(averaged, new, [share] * len(places))
        else:
            torch._foreach_lerp_(averaged, new, share)
        counts = [place for place in range(len(ours)) if place not in places]
        if counts:
            torch._foreach_copy_([ours[place] for place in counts], [theirs[place] for place in counts])

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights; the decay is a function of the step."""
        state: dict[str, Any] = self.module.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.module.load_state_dict(state)
