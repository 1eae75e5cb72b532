"""Losses: what task and distillation loss are on the same training images, epoch after epoch."""

from __future__ import annotations

from collections.abc import Mapping

from understudy.probes.base import EpochSight, Probe, Value

__all__ = ["FixedLosses"]

KEPT = ("task_loss", "kl_to_teacher", "distill")


class FixedLosses(Probe, name="losses"):
    """Task loss, KL to the teacher and distill loss on a fixed part of the training images at the end of every epoch.

    Zhao et al., "DOT: A Distillation-Oriented Trainer", ICCV 2023, figures 1, 3 and 6, also of a student alone: its KL
    to the teacher (T = 4, no T^2) is measured as everyone's. The images are those of the first steps of epoch 1, as
    they were augmented there, which a bank has seen, too; networks are in evaluation mode.
    """

    def look_at_epoch(self, sight: EpochSight) -> Mapping[str, Value]:
        """In nats, before any weight; "distill" is weighed as it enters the step."""
        measured = sight.measured()
        return {} if measured is None else {name: measured[name] for name in KEPT if name in measured}
