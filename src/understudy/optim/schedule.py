"""How the learning rate moves through a run, with the values of timm's schedulers, and how optimizers are set to it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from understudy.core.config import Config
from understudy.utils.errors import UserError

__all__ = ["Schedule", "initial_lr_of", "lr_factor", "scale_lr_"]

FALLING = ("cosine", "poly")  # these have an end to fall to


class Schedule(Config):
    """Settings of the learning rate's course.

    - constant: stays as it is.
    - step: times `gamma` from every milestone on. Milestones count the epochs that are over, from the run's start:
      "decay at 150, 180, 210" of Tian et al. 2020 and of mdistiller is (150, 180, 210), and the 151st epoch is
      the first with the lower rate. Milestones below 1 are fractions of the run: (0.625, 0.75, 0.875) is the same
      course for any number of epochs.
    - exponential: times `gamma` after every `decay_epochs`, which count from the end of the warm-up: 0.97 every 2.4
      epochs in the EfficientNet recipes.
    - cosine: half a cosine wave from the end of the warm-up down to `min_factor` or `min_lr` at the end of the run.
    - poly: as cosine, along (1 - progress) to the power of `power`.

    A warm-up starts from 1 / (1 + warmup_epochs) of the rate, or from `warmup_lr`, and rises in a straight line.
    """

    name: Literal["constant", "step", "exponential", "cosine", "poly"] = "cosine"  # the course of the learning rate
    milestones: tuple[float, ...] = Field(default=(), validate_default=True)  # of step: epochs, or shares of the run
    gamma: float = Field(default=0.1, gt=0, le=1)  # of step and exponential: the factor
    decay_epochs: float | None = Field(default=None, gt=0, validate_default=True)  # of exponential: between factors
    power: float = Field(default=0.9, gt=0)  # of poly; 0.9 in DeepLab's recipes, Chen et al. 2017
    min_factor: float = Field(default=0.0, ge=0, le=1)  # of cosine and poly: the share of the rate that they end at
    min_lr: float | None = Field(default=None, ge=0)  # the same as a rate, not as a share of the initial one
    warmup_epochs: float = Field(default=0.0, ge=0)  # of the learning rate; a loss weight's warm-up is its method's
    warmup_lr: float | None = Field(default=None, ge=0)  # a rate; None: lr / (1 + warmup_epochs)
    per: Literal["step", "epoch"] = "step"  # when the rate moves; epoch: it is the same in all of an epoch, as in DeiT
    warmup_within: bool = False  # True: the course has run since the start, beneath the warm-up, as in Swin and DeiT

    @field_validator("milestones")
    @classmethod
    def _are_one_course(cls, milestones: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        given = ", ".join(f"{milestone:g}" for milestone in milestones)
        if not milestones:
            if info.data.get("name") == "step":
                raise ValueError("are missing; a step schedule needs them, for instance 150, 180, 210")
            return milestones
        if info.data.get("name") not in ("step", None):
            raise ValueError(f"belong to the step schedule, not to {info.data['name']}; leave them out, got {given}")
        if milestones[0] <= 0 or any(b <= a for a, b in pairwise(milestones)):
            raise ValueError(f"must be above 0 and rise, got {given}")
        if milestones[0] < 1 <= milestones[-1]:
            raise ValueError(f"must be all epochs (1 or more) or all fractions of the run (below 1), got {given}")
        return milestones

    @field_validator("decay_epochs")
    @classmethod
    def _belongs_to_exponential(cls, epochs: float | None, info: ValidationInfo) -> float | None:
        name = info.data.get("name")
        if name == "exponential" and epochs is None:
            raise ValueError("are missing; an exponential schedule needs them, for instance 2.4 with gamma 0.97")
        if epochs is not None and name not in ("exponential", None):
            raise ValueError(f"belong to the exponential schedule, not to {name}; leave them out, got {epochs:g}")
        return epochs

    @field_validator("min_lr")
    @classmethod
    def _is_the_one_floor(cls, lowest: float | None, info: ValidationInfo) -> float | None:
        name = info.data.get("name")
        if lowest is not None and name not in (*FALLING, None):
            raise ValueError(f"belongs to the cosine and poly schedules, not to {name}; leave it out, got {lowest:g}")
        if lowest is not None and info.data.get("min_factor"):
            raise ValueError(f"and min_factor both say where the rate ends; leave one out, got {lowest:g}")
        return lowest

    @field_validator("warmup_lr")
    @classmethod
    def _has_a_warmup(cls, start: float | None, info: ValidationInfo) -> float | None:
        if start is not None and info.data.get("warmup_epochs") == 0:
            raise ValueError(f"is where a warm-up starts, but there is none; set warmup_epochs, got {start:g}")
        return start

    def in_proportion(self, epochs: int, *, to: int) -> Schedule:
        """The course of a run of `epochs` epochs in a run of `to`, as a teacher's own training takes it."""
        if epochs == to:
            return self
        share = to / epochs
        in_epochs = bool(self.milestones) and self.milestones[0] >= 1
        return self.model_copy(
            update={
                "warmup_epochs": self.warmup_epochs * share,
                "decay_epochs": None if self.decay_epochs is None else self.decay_epochs * share,
                "milestones": tuple(milestone / epochs for milestone in self.milestones if milestone < epochs)
                if in_epochs
                else self.milestones,
                # Without a milestone that the run would have reached the rate stays as it is.
                "name": "constant" if in_epochs and self.milestones[0] >= epochs else self.name,
            }
        )

    def check_run(self, epochs: int) -> None:
        """Refuse a warm-up that is as long as a run of so many epochs.

        Raises:
            UserError: with the way out.
        """
        if self.warmup_epochs >= epochs:
            raise UserError(
                f"a warm-up of {self.warmup_epochs:g} epochs leaves nothing of a run of {epochs}; set a shorter one"
            )


def lr_factor(schedule: Schedule, epoch: float, epochs: int, *, lr: float = 1.0) -> float:
    """What the initial learning rate is multiplied by.

    Without a `warmup_lr` the warm-up multiplies the course, linearly from 1 / (1 + warmup_epochs), so that no step is
    lost to a rate of zero, to 1 after `warmup_epochs`. With one it comes before the course, as in timm.

    Args:
        schedule: the settings.
        epoch: epochs that are over, 0 at the start; fractional within an epoch.
        epochs: length of the run.
        lr: the initial rate, which `min_lr` and `warmup_lr` are shares of.

    Raises:
        UserError: the warm-up is as long as the run, or longer.
    """
    schedule.check_run(epochs)
    warmup = schedule.warmup_epochs
    epoch = math.floor(epoch) if schedule.per == "epoch" else epoch
    if schedule.warmup_lr is None:
        return min((1 + epoch) / (1 + warmup), 1.0) * _course(schedule, epoch, epochs, lr)
    if epoch < warmup:
        start = schedule.warmup_lr / lr
        return start + (1 - start) * epoch / warmup
    return _course(schedule, epoch, epochs, lr)


def _course(schedule: Schedule, epoch: float, epochs: int, lr: float) -> float:
    """The factor but for the warm-up."""
    since_warmup = max(epoch - schedule.warmup_epochs, 0.0)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        unit = epochs if schedule.milestones[0] < 1 else 1
        # The margin is for fractions: 0.07 * 100 is more than 7.
        num_over = sum(unit * milestone - 1e-9 <= epoch for milestone in schedule.milestones)
        return float(schedule.gamma**num_over)
    if schedule.name == "exponential":
        assert schedule.decay_epochs is not None, "a validator saw to it"
        return float(schedule.gamma ** (since_warmup // schedule.decay_epochs))
    if schedule.warmup_within:
        progress = min(epoch / epochs, 1.0)
    else:
        progress = min(since_warmup / (epochs - schedule.warmup_epochs), 1.0)
    lowest = schedule.min_factor if schedule.min_lr is None else schedule.min_lr / lr
    if schedule.name == "cosine":
        return lowest + 0.5 * (1 - lowest) * (1 + math.cos(math.pi * progress))
    return float(lowest + (1 - lowest) * (1 - progress) ** schedule.power)


def initial_lr_of(optimizer: torch.optim.Optimizer) -> float:
    """The first group's learning rate as it was before any `scale_lr_`."""
    group = optimizer.param_groups[0]
    return float(group.get("initial_lr", group["lr"]))


def scale_lr_(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times the one it had at the first call (`initial_lr`).

    One that is a tensor stays the same tensor.
    """
    for group in optimizer.param_groups:
        lr = factor * group.setdefault("initial_lr", group["lr"])
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
