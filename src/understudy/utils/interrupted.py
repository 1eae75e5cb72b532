"""Interrupted: a run was stopped on request. Imports nothing, so that the command line can tell it from a fault."""

from __future__ import annotations

__all__ = ["Interrupted"]


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Training stopped at somebody's wish, after a whole step that was saved."""

    def __init__(self, step: int, signal: int | None = None) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step
        self.signal = signal
