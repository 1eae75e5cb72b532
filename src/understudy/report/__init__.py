"""What a run says: results.json as types, the table, the sentences, the figures and one HTML page."""

from understudy.report.figures import all_plots
from understudy.report.numbers import compact, duration
from understudy.report.page import write_report
from understudy.report.plots import Plot
from understudy.report.renderings import FORMATS, render, rich_table
from understudy.report.results import ALONE, SCHEMA, Results, read_results
from understudy.report.run_folder import RunFolder, Speed, Timing, read_run, read_timing
from understudy.report.sentences import basis_sentence, headline, row_sentence
from understudy.report.table import Table, comparison_table

__all__ = [
    "ALONE",
    "FORMATS",
    "SCHEMA",
    "Plot",
    "Results",
    "RunFolder",
    "Speed",
    "Table",
    "Timing",
    "all_plots",
    "basis_sentence",
    "compact",
    "comparison_table",
    "duration",
    "headline",
    "read_results",
    "read_run",
    "read_timing",
    "render",
    "rich_table",
    "row_sentence",
    "write_report",
]
