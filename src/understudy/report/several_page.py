"""One page about several runs: what they come to side by side, then each as on its own page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from understudy.report.page import rendered, write_page
from understudy.report.several import (
    NamedRun,
    differing_settings,
    joint_cautions,
    joint_run,
    joint_table,
    joint_verdict,
    read_runs,
)

__all__ = ["write_runs_report"]


def write_runs_report(folders: Sequence[Path], out: Path) -> Path:
    """Write one page about several finished runs.

    Args:
        folders: of the runs, in the order of the page.
        out: the file, or an existing folder that gets a report.html.

    Returns:
        The file that was written.

    Raises:
        UserError: as `understudy.report.several.read_runs`.
    """
    runs = read_runs(folders)
    return write_page(_render(runs), folders[0], out)


def _render(runs: Sequence[NamedRun]) -> str:
    from understudy.report.figures.accuracy import accuracy_plot  # with matplotlib
    from understudy.report.figures.cost import cost_plot
    from understudy.report.figures.style import narrow
    from understudy.report.figures.teachers import teachers_plot
    from understudy.report.page_figures import shown
    from understudy.report.page_table import joint_page_table
    from understudy.report.run_page import run_page

    together = joint_run(runs)
    figures = []
    for draw in (partial(cost_plot, together), partial(accuracy_plot, together), partial(teachers_plot, runs)):
        plot = draw()
        with narrow():
            small = draw()
        if plot is not None:
            figures.append(shown(plot, small))
    return rendered(
        "several.html.j2",
        title=f"{len(runs)} runs: {', '.join(named.name for named in runs)}",
        verdict=joint_verdict(runs),
        cautions=joint_cautions(runs),
        joint_figures=figures,
        table=joint_page_table(joint_table(runs), [row.name for row in together.results.rows]),
        settings=differing_settings(runs),
        pages=[(named.name, run_page(named.run, salt=f"r{i}")) for i, named in enumerate(runs, start=1)],
    )
