"""What a run says: results.json as types, the table, the sentences, the figures and one HTML page."""

from typing import TYPE_CHECKING, Any

from understudy.report.cautions import guessing_rows
from understudy.report.costs import cost_sentence
from understudy.report.formatting import compact, duration
from understudy.report.origins import start_sentence, style_of_start
from understudy.report.page import write_report
from understudy.report.run_data import RunData, Speed, Timing, read_run, read_timing
from understudy.report.sentences import basis_sentence, headline, pair_sentences, row_sentence
from understudy.report.table import Table, comparison_table
from understudy.report.table_formats import FORMATS, render, rich_table
from understudy.results.reading import read_results
from understudy.results.schema import ALONE, SCHEMA, Results

if TYPE_CHECKING:
    from understudy.report.figures import Plot, all_plots

__all__ = [
    "ALONE",
    "FORMATS",
    "SCHEMA",
    "Plot",
    "Results",
    "RunData",
    "Speed",
    "Table",
    "Timing",
    "all_plots",
    "basis_sentence",
    "compact",
    "comparison_table",
    "cost_sentence",
    "duration",
    "guessing_rows",
    "headline",
    "pair_sentences",
    "read_results",
    "read_run",
    "read_timing",
    "render",
    "rich_table",
    "row_sentence",
    "start_sentence",
    "style_of_start",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """What draws, imported when it is asked for: a run needs matplotlib at its end only."""
    if name in ("Plot", "all_plots"):
        from understudy.report import figures

        return getattr(figures, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
