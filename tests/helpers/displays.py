"""Displays that show nothing: they keep what they are told, or let something happen at a certain step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from understudy.runs.console import Display


def press_ctrl_c() -> None:
    """As a person does."""
    signal.raise_signal(signal.SIGINT)


class Heard(Display):
    """A quiet display that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str, *, style: str | None = None) -> None:
        self.said.append(text)


class Eventful(Heard):
    """A quiet display that lets something happen the moment that it is told of a certain step.

    Args:
        stretch: which training stretch it happens in, counted from 1 (the teacher's own, then the seeds').
        step: after which step of it; 0: as the stretch begins.
        event: what happens.
    """

    def __init__(self, stretch: int, step: int, event: Any) -> None:
        super().__init__()
        self._when, self._event, self._stretch = (stretch, step), event, 0

    @contextmanager
    def stretch(self, total_steps: int, *, images_per_step: int) -> Iterator[None]:
        self._stretch += 1
        self._reached(0)
        with super().stretch(total_steps, images_per_step=images_per_step):
            yield

    def update(self, steps_done: int, text: str) -> None:
        super().update(steps_done, text)
        self._reached(steps_done)

    def _reached(self, step: int) -> None:
        if (self._stretch, step) == self._when:
            self._event()
