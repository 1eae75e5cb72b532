"""TensorBoard: event files in trackers/tensorboard/ROW/seedN, which it lays over each other in one chart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.trackers.base import Tracker
from understudy.trackers.series import final_scores, numbers, series_name, settings_of
from understudy.utils.text import json_text

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

__all__ = ["TensorBoard"]


class TensorBoard(Tracker, name="tensorboard"):
    """Scalars by step; what was written after a checkpoint is cut off where a run is resumed from it."""

    package = "tensorboard"

    def start(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Know where to write; files are opened with their first numbers."""
        self._folder, self._recipe = folder / "trackers" / "tensorboard", recipe
        self._writers: dict[str, SummaryWriter] = {}
        self._folder.mkdir(parents=True, exist_ok=True)

    def log(self, record: Mapping[str, Any]) -> None:
        """Write the line's numbers."""
        if record["kind"] == "rollback":
            self._writer(series_name(record)).add_text("rollback", str(record.get("why")), record["step"])
            return
        writer = self._writer(series_name(record))
        for key, value in numbers(record).items():
            if key != "epoch":
                writer.add_scalar(key, value, record["step"])

    def state(self) -> dict[str, Any]:
        """The size of every file, which holds all that was logged."""
        for writer in self._writers.values():
            writer.flush()
        return {str(file.relative_to(self._folder)): file.stat().st_size for file in self._files()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Cut every file back, and take away those that are newer; what follows goes into new ones."""
        self._close()
        for file in self._files():
            size = state.get(str(file.relative_to(self._folder)))
            if size is None:
                file.unlink()
            else:
                with file.open("r+b") as stream:
                    stream.truncate(min(size, file.stat().st_size))

    def finish(self, results: Mapping[str, Any] | None) -> None:
        """Write what a finished run came to, beside its settings, as TensorBoard's HPARAMS tab shows them."""
        from torch.utils.tensorboard.summary import hparams

        for series, scores in final_scores(results or {}).items():
            writer = self._writer(series)
            for summary in hparams(settings_of(self._recipe, series), scores):
                writer._get_file_writer().add_summary(summary)
            for key, value in scores.items():
                writer.add_scalar(key, value)
        self._close()

    def _writer(self, series: str) -> SummaryWriter:
        from torch.utils.tensorboard.writer import SummaryWriter

        if series not in self._writers:
            is_new = not (self._folder / series).is_dir()
            writer = self._writers[series] = SummaryWriter(str(self._folder / series))
            if is_new:
                settings = json_text(settings_of(self._recipe, series), indent=1)
                writer.add_text("settings", f"```json\n{settings}\n```")
        return self._writers[series]

    def _files(self) -> list[Path]:
        return sorted(self._folder.rglob("events.out.tfevents.*"))

    def _close(self) -> None:
        while self._writers:
            self._writers.popitem()[1].close()
