"""DOTWeights: the weights that DOT's momenta come to, without its memory; the control beside DOT."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import ClassVar

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from understudy.core.batch import Losses
from understudy.optim.joint import Joint

__all__ = ["DOTWeights", "steady_gains"]


def steady_gains(momentum: float, delta: float) -> tuple[float, float]:
    """What DOT multiplies each loss by in the long run, (task, distill), over what plain momentum does.

    A gradient that stays the same moves a parameter by 1 / (1 - m) times the rate under momentum m, so that the two
    momenta m - delta and m + delta weigh the losses by (1 - m) / (1 - m + delta) and (1 - m) / (1 - m - delta): 0.571
    and 4 with DOT's 0.9 and 0.075.
    """
    room = 1 - momentum
    return room / (room + delta), room / (room - delta)


class DOTWeights(Joint, name="dot_weights"):
    """Joint training on losses weighted as DOT weighs them in the long run: a control, and cheaper than DOT.

    DOT (Zhao et al., ICCV 2023) gives the distillation loss a longer memory, which also gives it a larger weight. Here
    is the weight alone, by `steady_gains`, with one momentum and one backward pass: a row kd+dot_weights beside kd+dot
    shows which of the two did it. Differs from DOT's weighing where one loss alone reaches a parameter (a connector):
    DOT leaves such a one its plain momentum, here it is weighted like all others.

    Args:
        optimizer: holds the parameters.
        momentum: m, as in DOT.
        delta: as in DOT.
        clip_norm: as in Joint.
    """

    class Config(Joint.Config):
        """Joint's settings, and DOT's delta."""

        delta: float = Field(default=0.075, validate_default=True)  # CIFAR-100; 0.09 for ImageNet

        @field_validator("delta")
        @classmethod
        def _leaves_room(cls, delta: float, info: ValidationInfo) -> float:
            momentum = info.data.get("momentum")
            if momentum is not None and momentum + abs(delta) >= 1:
                raise ValueError(f"with momentum {momentum:g}: momentum + |delta| must stay below 1, got {delta:g}")
            return delta

        def momentum_in_words(self) -> str:
            """'momentum 0.9, task x 0.571, distill x 4'."""
            task, distill = steady_gains(self.momentum, self.delta)
            return f"{super().momentum_in_words()}, task x {task:.3g}, distill x {distill:.3g}"

        def build(self, parameters: Iterable[tuple[str, nn.Parameter]], *, undecayed: Collection[str] = ()) -> Joint:
            """A DOTWeights around the optimizer of that name."""
            optimizer = self._optimizer(self.groups(parameters, undecayed))
            return DOTWeights(optimizer, momentum=self.momentum, delta=self.delta, clip_norm=self.clip_norm)

    needs_distillation: ClassVar[bool] = True

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, momentum: float, delta: float, clip_norm: float | None = None
    ) -> None:
        super().__init__(optimizer, clip_norm=clip_norm)
        self.gains = steady_gains(momentum, delta)

    def accumulate(self, losses: Losses, *, scaler: torch.amp.GradScaler | None = None) -> None:
        """One backward pass of the weighted sum."""
        task, distill = self.gains
        weighted = None if losses.distill is None else distill * losses.distill
        super().accumulate(Losses(task * losses.task, weighted, losses.terms), scaler=scaler)
