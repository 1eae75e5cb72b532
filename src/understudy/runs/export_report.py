"""What `understudy export` reports: agreement with torch, size, score and latency of each file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from understudy.core.image_size import ImageSize, height_and_width
from understudy.models.cost import Cost
from understudy.models.export import Written
from understudy.models.export.latency import Latency
from understudy.tasks import Metric
from understudy.utils.text import bytes_in_words, plural

__all__ = ["ExportReport", "Measured"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to run the student.

    Attributes:
        name: of the file, or torch.
        num_bytes: of the file, or of the weights.
        score: by the headline metric; None where it was not scored.
        latencies: of a batch, by (CPU threads, batch size).
    """

    name: str
    num_bytes: int
    score: float | None
    latencies: Mapping[tuple[int, int], Latency]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, how well it agrees with torch, and what it costs.

    Attributes:
        image_size: of the images that the files take.
        channels: of these.
        outputs: of the files, by name.
        is_single: whether they take one image at a time.
        about: names of what each file says of itself.
        written: the files, in the order in which they were asked for.
        rows: torch first, then the files.
        student: what it costs in torch; its latency is that of `rows`.
        teacher: what it costs in torch, where it can be built by name.
        scored_on: which images, or why none.
        metric: that scores are by.
        failed: what went wrong with files that are not among those written.
    """

    image_size: ImageSize
    channels: int
    about: tuple[str, ...]
    written: tuple[Written, ...]
    rows: tuple[Measured, ...]
    student: Cost
    teacher: Cost | None
    scored_on: str
    metric: Metric
    failed: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("logits",)
    is_single: bool = False

    def describe(self) -> str:
        """The report in plain lines."""
        height, width = height_and_width(self.image_size)
        colours = "RGB " if self.channels == 3 else ""
        lines = [_file_line(one, row) for one, row in zip(self.written, self.rows[1:], strict=True)]
        batch, of_any = ("1", "") if self.is_single else ("B", "; any B")
        lines.append(
            f"input    images ({batch},{self.channels},{height},{width}), {colours}in [0,1]; normalised inside{of_any}"
        )
        if self.outputs != ("logits",):
            lines.append(f"output   {', '.join(self.outputs)}; corners of boxes are in pixels of the input")
        lines.append(_cost_line("student", self.student, self.rows[0].latencies[1, 1].p50))
        if self.teacher is not None:
            lines.append(_cost_line("teacher", self.teacher, self.teacher.latency_ms))
        if self.scored_on:
            lines.append(f"{self.metric.title:<8} on {self.scored_on}" if self._is_scored else self.scored_on)
        return "\n".join([*lines, "", *self._table()])

    @property
    def _is_scored(self) -> bool:
        return self.rows[0].score is not None

    def _table(self) -> Iterator[str]:
        """Aligned columns: size, score, and milliseconds of a batch as median / ninth decile."""
        conditions = list(self.rows[0].latencies)
        heads = [f"{plural(threads, 'thread')}, batch {batch}" for threads, batch in conditions]
        title = f"{self.metric.title}, {self.metric.unit}"
        table = [["", "size", *([title] if self._is_scored else []), *heads]]
        for row in self.rows:
            score = [] if not self._is_scored else ["" if row.score is None else f"{row.score:.2f}"]
            times = [_milliseconds(row.latencies[condition]) for condition in conditions]
            table.append([row.name, bytes_in_words(row.num_bytes), *score, *times])
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        for line in table:
            first, *others = (
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            yield "   ".join([first, *others]).rstrip()
        yield "in ms a batch, on the CPU: median / ninth decile"


def _file_line(written: Written, row: Measured) -> str:
    return (
        f"{written.file}   {written.num_bytes / 1e6:.1f} MB   "
        f"largest difference to torch {written.largest_difference:.0e}   "
        f"{row.latencies[1, 1].p50:.1f} ms an image in {written.format.title}, 1 thread, batch 1"
    )


def _cost_line(role: str, cost: Cost, latency_ms: float) -> str:
    return (
        f"{role}   {cost.num_parameters / 1e6:.2f} M parameters   {cost.macs_per_image / 1e6:.1f} M MACs   "
        f"{latency_ms:.1f} ms an image in torch"
    )


def _milliseconds(taken: Latency) -> str:
    return f"{_three_digits(taken.p50)} / {_three_digits(taken.p90)}"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
