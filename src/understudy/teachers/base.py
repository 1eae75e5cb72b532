"""Teacher: what the trainer asks of whoever teaches."""

from __future__ import annotations

from typing import Protocol

from understudy.core.batch import Batch, Observation

__all__ = ["Teacher"]


class Teacher(Protocol):
    """Looks at a batch once and leaves an Observation; nothing in it carries gradient."""

    def observe(self, batch: Batch) -> Observation:
        """What the teacher says about the batch."""
