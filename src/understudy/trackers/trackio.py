"""Trackio: a run for each row and seed in one local project, which `trackio show` draws."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from contextvars import Context
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from understudy.trackers.series import Series

__all__ = ["Trackio"]


class Trackio(Series[Any], name="trackio"):
    """Its own environment variables hold (TRACKIO_DIR, TRACKIO_SPACE_ID); TRACKIO_PROJECT names the project."""

    package = "trackio"

    def start(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Import it."""
        import trackio

        super().start(folder, recipe)
        self._trackio = trackio
        self._last_steps: dict[int, int] = {}

    def open(self, series: str, settings: Mapping[str, Any]) -> Any:
        """Begin a run, or go on with the newest of this name."""
        name = f"{self.folder.resolve().name}/{series}"
        begin = partial(
            self._trackio.init,
            project=os.environ.get("TRACKIO_PROJECT", "understudy"),
            name=name,
            group=self.folder.resolve().name,
            config=dict(settings),
            resume="allow" if series in self.ids else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        with redirect_stdout(StringIO()):
            run = Context().run(begin)  # in its own context: a second run would end the first
        self.keep_id(series, run.id)
        return run

    def give(self, run: Any, values: Mapping[str, float], step: int) -> None:
        """Log them at this step."""
        self._last_steps[id(run)] = step
        run.log(dict(values), step=step)

    def give_final(self, run: Any, values: Mapping[str, float]) -> None:
        """Log them at the last step."""
        run.log(dict(values), step=self._last_steps.get(id(run)))

    def close(self, run: Any, *, is_over: bool) -> None:
        """Wait until all is written."""
        with redirect_stdout(StringIO()):
            run.finish()
