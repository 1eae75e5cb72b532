"""A line for each finished epoch and row, under a heading that fits the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from understudy.report.formatting import ABSENT, loss, score, shortened, with_unit
from understudy.runs.console import Display
from understudy.tasks import Metric
from understudy.utils.untrusted import visible

__all__ = ["EpochLine", "EpochLines", "EpochTable", "best_so_far", "epoch_lines"]

GAP = "  "
FEWEST_NAME_COLUMNS = 12
SPARE = ("lr", "best", "distill", "left", "task loss")  # a terminal that is too narrow loses these first


@dataclass(frozen=True, slots=True)
class EpochLine:
    """What one row came to after one epoch; None where nothing was measured."""

    row: str
    epoch: int
    lr: float | None = None
    task_loss: float | None = None  # mean over the epoch's training batches, in nats
    distill: float | None = None  # likewise, of the distill loss as it enters the step
    score: float | None = None  # by the headline metric on the validation split
    best: float | None = None  # of all epochs so far

    @property
    def is_new_best(self) -> bool:
        """Whether no epoch before was better."""
        return self.score is not None and self.score == self.best

    @property
    def has_diverged(self) -> bool:
        """Whether a number is NaN or infinite."""
        return any(value is not None and not math.isfinite(value) for value in (self.task_loss, self.distill))


class EpochTable:
    """Heading and lines of one stretch of training, in columns that keep their width.

    Args:
        rows: names of all rows.
        epochs: how many there are going to be.
        metric: the headline's; None where nothing is evaluated.
        distils: whether any row has a distill loss.
        width: columns of the terminal; None: as many as it takes.
        label: heads the names of the rows, such as "seed 1/3".
    """

    def __init__(
        self,
        rows: Sequence[str],
        *,
        epochs: int,
        metric: Metric | None,
        distils: bool = True,
        width: int | None = None,
        label: str = "row",
    ) -> None:
        self.epochs, self.metric, self._label = epochs, metric, label
        title = "" if metric is None else metric.title
        widths = {
            "epoch": max(5, 2 * len(str(epochs)) + 1),
            "row": max(len(name) for name in (label, *map(visible, rows))),
            "lr": 8,
            "task loss": 9,
            **({"distill": 7} if distils else {}),
            **({} if metric is None else {f"val {title}": max(7, len(title) + 4), "best": 6}),
            "left": 8,
        }
        self._widths = widths if width is None else _fitted(widths, width)

    def heading(self) -> Text:
        """The names of the columns."""
        return Text(self._line({name: self._label if name == "row" else name for name in self._widths}), style="dim")

    def line(self, line: EpochLine, *, left: str) -> Text:
        """One row's line.

        Args:
            line: what it holds.
            left: time to the end of the stretch, as a clock shows it.
        """
        cells = {
            "epoch": f"{line.epoch}/{self.epochs}",
            "row": shortened(visible(line.row), self._widths["row"]),
            "lr": ABSENT if line.lr is None else f"{line.lr:.3g}",
            "task loss": loss(line.task_loss),
            "distill": loss(line.distill),
            "left": left,
        }
        if self.metric is not None:
            reached = ABSENT if line.score is None else with_unit(score(line.score, self.metric), self.metric)
            cells[f"val {self.metric.title}"] = reached
            cells["best"] = score(line.best, self.metric)
        style = "bold red" if line.has_diverged else "bold" if line.is_new_best else ""
        return Text(self._line(cells), style=style)

    def _line(self, cells: Mapping[str, str]) -> str:
        parts = [
            f"{cells[name]:<{width}}" if name == "row" else f"{cells[name]:>{width}}"
            for name, width in self._widths.items()
        ]
        return GAP + GAP.join(parts)


class EpochLines:
    """Shows the epochs of one stretch of training as they end: a heading, then a line for each row.

    Args:
        display: where.
        metric: the headline's.
        label: heads the names of the rows.
    """

    def __init__(self, display: Display, metric: Metric, *, label: str = "row") -> None:
        self._display, self._metric, self._label = display, metric, label
        self._table: EpochTable | None = None

    def show(
        self,
        records: Sequence[Mapping[str, Any]],
        history: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        epochs: int,
        left: str,
        always: bool = False,
    ) -> None:
        """Show an epoch, unless one was shown a moment ago; the first and the last always.

        Args:
            records: lines of metrics.jsonl, of one epoch, one for each row.
            history: records of all epochs so far, by row.
            epochs: of the stretch.
            left: time to its end, as a clock shows it.
            always: show it all the same.
        """
        begins = self._table is None
        metric = self._metric if any("val" in record for record in records) else None
        if self._table is None:
            self._table = EpochTable(
                [record["row"] for record in records],
                epochs=epochs,
                metric=metric,
                distils=any("distill" in record.get("train", {}) for record in records),
                width=self._display.width,
                label=self._label,
            )
        best = {row: best_so_far(found, metric) for row, found in history.items()}
        texts = [self._table.line(line, left=left) for line in epoch_lines(records, best, metric)]
        shown = [self._table.heading(), *texts] if begins else texts
        self._display.block(shown, always=always or begins or records[0]["epoch"] == epochs)


def epoch_lines(
    records: Iterable[Mapping[str, Any]], best: Mapping[str, float | None], metric: Metric | None
) -> list[EpochLine]:
    """What is shown of the epoch lines of metrics.jsonl.

    Args:
        records: of one epoch, one for each row.
        best: of all epochs so far, by row.
        metric: the headline's.
    """
    return [
        EpochLine(
            row=record["row"],
            epoch=record["epoch"],
            lr=record.get("lr"),
            task_loss=record.get("train", {}).get("task_loss"),
            distill=record.get("train", {}).get("distill"),
            score=_score_in(record, metric),
            best=best.get(record["row"]),
        )
        for record in records
    ]


def best_so_far(records: Iterable[Mapping[str, Any]], metric: Metric | None) -> float | None:
    """The best score of epoch records of one row; None where none has any."""
    scores = [found for record in records if (found := _score_in(record, metric)) is not None and math.isfinite(found)]
    return None if metric is None else max(scores, key=metric.worth, default=None)


def _score_in(record: Mapping[str, Any], metric: Metric | None) -> float | None:
    found = (record.get("val") or {}).get(metric.name) if metric is not None else None
    return None if found is None else float(found)


def _fitted(widths: Mapping[str, int], width: int) -> dict[str, int]:
    """The columns that fit: long names are cut first, then columns are left out."""
    kept = dict(widths)
    fewest = min(FEWEST_NAME_COLUMNS, widths["row"])
    for spare in (None, *SPARE):
        kept.pop(spare or "", None)
        excess = sum(kept.values()) + len(GAP) * len(kept) - width
        if widths["row"] - excess >= fewest:
            return kept | {"row": min(widths["row"], widths["row"] - excess)}
    return kept | {"row": fewest}
