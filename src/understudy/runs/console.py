"""What a run says on the terminal: lines, and a progress bar where there is one to see it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from understudy.utils.text import clock, wrapped
from understudy.utils.untrusted import visible

__all__ = ["Display"]

PLAIN_LINE_SECONDS = 5.0  # between two progress lines where there is no terminal
LINES_A_SECOND = 1.0  # of epochs, where there are many rows and no terminal
TERMINAL_BLOCK_SECONDS = 1.0  # between the lines of two epochs on a terminal
WARNING_STYLE = "bold yellow"
WARNING = re.compile(r"^warning\b.*|.*\(skipped; `.*|random weights( \([^)]*\))?", re.DOTALL)  # as parts of a line


class Display:
    """A progress bar on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, *, quiet: bool = False, to_stderr: bool = False) -> None:
        # Without a terminal nothing tells the width; lines must not be wrapped in the middle of a path.
        stream = sys.stderr if to_stderr else sys.stdout
        self.console = Console(highlight=False, soft_wrap=not stream.isatty(), quiet=quiet, stderr=to_stderr)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0
        self._last_block = float("-inf")
        self._pace: _Pace | None = None

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None where there is none, and lines may be as long as they are."""
        return None if self.console.soft_wrap else self.console.width

    def say(self, text: str, *, style: str | None = None) -> None:
        """Print a line, above the bar where there is one; what warns in it, random weights also, in colour."""
        shown = Text(wrapped(visible(text), self.width, hang=_label_columns(text)), style=style or "")
        shown.highlight_regex(WARNING, WARNING_STYLE)
        self.console.print(shown)

    def block(self, lines: Sequence[Text], *, always: bool = False) -> bool:
        """Print lines that belong together, unless others were printed a moment ago; whether they were printed.

        Without a terminal there are `PLAIN_LINE_SECONDS` between two blocks, and no more than `LINES_A_SECOND`, so that
        epochs of a moment do not flood a log.

        Args:
            lines: of one epoch.
            always: print them all the same.
        """
        now = time.monotonic()
        pause = (
            TERMINAL_BLOCK_SECONDS if self.console.is_terminal else max(PLAIN_LINE_SECONDS, len(lines) / LINES_A_SECOND)
        )
        if not always and now - self._last_block < pause:
            return False
        self._last_block = self._last_line = now
        for line in lines:
            self.console.print(line)
        return True

    def left_after(self, steps_done: int) -> str:
        """Time to the end of the stretch after so many steps, as a clock shows it; "?" where nothing tells."""
        if self._pace is None:
            return "?"
        self._pace.reached(steps_done)
        return self._pace.left

    @contextmanager
    def stretch(self, total_steps: int, *, images_per_step: int) -> Iterator[None]:
        """Show progress over `total_steps` steps."""
        self._pace = _Pace(total_steps, images_per_step)
        self._last_line = time.monotonic()
        self._last_block = float("-inf")  # the first lines of a stretch are always shown
        if self.console.is_terminal:
            text = TextColumn("  {task.description}", markup=False)
            columns = (text, BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
            last = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("left"))
            self._bar = Progress(*columns, *last, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=total_steps, rate="")
            self._bar.start()
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.stop()
            self._bar = self._task = self._pace = None

    def update(self, steps_done: int, text: str) -> None:
        """Show how far the stretch is; after a few steps, how long it is going to take."""
        pace = self._pace
        if pace is None:
            return
        pace.reached(steps_done)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=steps_done, description=visible(text), rate=pace.rate)
        elif time.monotonic() - self._last_line > PLAIN_LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"  {text}   {100 * steps_done // max(pace.total_steps, 1)} %   {pace.rate}   {pace.left} left")


def _label_columns(text: str) -> int:
    """Where a line goes on below what its first word heads: 9 of 'teacher  timm:resnet34 ...'."""
    found = re.match(r" *(\S+ {2,})", text)
    return len(found[1]) if found else 0


class _Pace:
    """Rate and time left of a stretch of steps, from where it was first seen."""

    def __init__(self, total_steps: int, images_per_step: int) -> None:
        self.total_steps, self.images_per_step = total_steps, images_per_step
        self._first: tuple[int, float] | None = None
        self._now = (0, 0.0)

    def reached(self, steps_done: int) -> None:
        """So many steps are done now."""
        self._now = (steps_done, time.monotonic())
        self._first = self._first or self._now

    @property
    def steps_per_second(self) -> float:
        """0 until two steps were seen."""
        if self._first is None or self._now[0] == self._first[0]:
            return 0.0
        return (self._now[0] - self._first[0]) / max(self._now[1] - self._first[1], 1e-9)

    @property
    def rate(self) -> str:
        """'11,400 img/s'."""
        return f"{self.steps_per_second * self.images_per_step:,.0f} img/s"

    @property
    def left(self) -> str:
        """'0:00:21'."""
        return clock((self.total_steps - self._now[0]) / self.steps_per_second) if self.steps_per_second else "?"
