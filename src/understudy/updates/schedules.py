"""How the learning rate moves through a run: a pure function of the epoch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from understudy.config import Config, UserError

__all__ = ["Schedule", "lr_factor"]


class Schedule(Config):
    """Settings of the learning rate's course.

    - constant: stays as it is.
    - step: times `gamma` from every milestone on. Milestones count the epochs that are over, from the run's start:
      "decay at 150, 180, 210" of Tian et al. 2020 and of mdistiller is (150, 180, 210), and the 151st epoch is
      the first with the lower rate. Milestones below 1 are fractions of the run: (0.625, 0.75, 0.875) is the same
      course for any number of epochs.
    - cosine: half a cosine wave from the end of the warm-up down to `min_factor` at the end of the run.
    """

    name: Literal["constant", "step", "cosine"] = "cosine"
    milestones: tuple[float, ...] = Field(default=(), validate_default=True)
    gamma: float = Field(default=0.1, gt=0, le=1)
    min_factor: float = Field(default=0.0, ge=0, le=1)
    warmup_epochs: float = Field(default=0.0, ge=0)  # of the learning rate; a loss weight's warm-up is its method's

    @field_validator("milestones")
    @classmethod
    def _are_one_course(cls, milestones: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        given = ", ".join(f"{milestone:g}" for milestone in milestones)
        if not milestones:
            if info.data.get("name") == "step":
                raise ValueError("are missing; a step schedule needs them, for instance 150, 180, 210")
            return milestones
        if info.data.get("name") in ("constant", "cosine"):
            raise ValueError(f"belong to the step schedule, not to {info.data['name']}; leave them out, got {given}")
        if milestones[0] <= 0 or any(b <= a for a, b in pairwise(milestones)):
            raise ValueError(f"must be above 0 and rise, got {given}")
        if milestones[0] < 1 <= milestones[-1]:
            raise ValueError(f"must be all epochs (1 or more) or all fractions of the run (below 1), got {given}")
        return milestones


def lr_factor(schedule: Schedule, epoch: float, epochs: int) -> float:
    """What the initial learning rate is multiplied by.

    The warm-up multiplies the schedule, linearly from 1 / (1 + warmup_epochs), so that no step is lost to a rate of
    zero, to 1 after `warmup_epochs`.

    Args:
        schedule: the settings.
        epoch: epochs that are over, 0 at the start; fractional within an epoch.
        epochs: length of the run.

    Raises:
        UserError: the warm-up is as long as the run, or longer.
    """
    warmup = schedule.warmup_epochs
    if warmup >= epochs:
        raise UserError(f"a warm-up of {warmup:g} epochs leaves nothing of a run of {epochs}; set a shorter one")
    return min((1 + epoch) / (1 + warmup), 1.0) * _factor(schedule, epoch, epochs)


def _factor(schedule: Schedule, epoch: float, epochs: int) -> float:
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        unit = epochs if schedule.milestones[0] < 1 else 1
        # The margin is for fractions: 0.07 * 100 is a little more than 7.
        return schedule.gamma ** sum(epoch >= unit * milestone - 1e-9 for milestone in schedule.milestones)
    warmup = schedule.warmup_epochs
    progress = min(max(epoch - warmup, 0.0) / (epochs - warmup), 1.0)
    return schedule.min_factor + (1 - schedule.min_factor) * (1 + math.cos(math.pi * progress)) / 2
