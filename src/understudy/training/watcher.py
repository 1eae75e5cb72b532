"""Whoever watches a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from understudy.training.trainer import Trainer

__all__ = ["Watcher"]


class Watcher(Protocol):
    """Whoever must know what happens: writes logs and checkpoints, shows progress. It changes nothing."""

    def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
        """A step of all students is done; raises Interrupted to stop here."""

    def finished_epoch(self, trainer: Trainer) -> None:
        """An epoch, its evaluation included, is done."""
