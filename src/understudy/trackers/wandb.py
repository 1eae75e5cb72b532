"""Weights & Biases: a run for each row and seed, together in a group that has the run folder's name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.trackers.series import Series

__all__ = ["Wandb"]

INIT_SECONDS = 30.0  # to reach the server in


class Wandb(Series[Any], name="wandb"):
    """Its own environment variables hold (WANDB_PROJECT, WANDB_MODE, WANDB_DIR); without a login runs stay offline."""

    package = "wandb"

    def start(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Import it, and see whether somebody is logged in."""
        import wandb

        super().start(folder, recipe)
        self._wandb = wandb
        self._dir = os.environ.get("WANDB_DIR") or str(folder / "trackers")
        self._mode: Any = None  # as its own variables say
        if "WANDB_MODE" not in os.environ and not wandb.login(prompt=False, verify=False):
            self._mode = "offline"
            self.note = f"nobody is logged in, so runs stay in {self._dir}/wandb; `wandb sync` sends them"

    def open(self, series: str, settings: Mapping[str, Any]) -> Any:
        """Begin a run, or go on with the one of this id."""
        id = self.ids.get(series) or self.keep_id(series, secrets.token_hex(4))
        return self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "understudy"),
            group=self.folder.resolve().name,
            name=f"{self.folder.resolve().name}/{series}",
            id=id,
            resume="allow",
            reinit="create_new",  # the rows of a seed are trained side by side
            config=dict(settings),
            dir=self._dir,
            mode=self._mode,
            settings=self._wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS),
        )

    def give(self, run: Any, values: Mapping[str, float], step: int) -> None:
        """Log them at this step."""
        run.log(dict(values), step=step)

    def give_final(self, run: Any, values: Mapping[str, float]) -> None:
        """Lay them into the run's summary."""
        run.summary.update(dict(values))

    def close(self, run: Any, *, is_over: bool) -> None:
        """Send what is left."""
        run.finish(exit_code=0 if is_over else 1)
