"""Figures of analyses and probes: what their sentences and axes say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from helpers.run_writer import write_run
from understudy.report import read_run
from understudy.report.figures.found import make_log
from understudy.report.figures.landscape import landscape_plot
from understudy.report.figures.style import Plot


def test_the_landscape_says_the_highest_loss_on_the_line_and_explains_sharpness(tmp_path: Path) -> None:
    run = write_run(tmp_path / "x", seeds=[0])
    line = {"steps": [-1, 0, 1], "losses": [3.0, 2.0, 11.5], "loss": 2.0, "sharpness": 316.7}
    found = {"identity": {"num_images": 40}, "num_pieces": 1, "pieces": {"kd/line": line}}
    (run / "analysis").mkdir()
    (run / "analysis" / "landscape.json").write_text(json.dumps(found), encoding="utf-8")
    plot = landscape_plot(read_run(run))
    assert isinstance(plot, Plot)
    assert plot.sentences == ("kd: the loss is 2 at the student and at most 11.5 on the line; sharpness 317 %.",)
    assert "divided by 1 + the loss at the student" in plot.reading


@pytest.mark.parametrize(("low", "high"), [(0.66, 1.6), (0.4, 3.0), (0.001, 50.0)])
def test_a_logarithmic_axis_has_two_numbers_or_more(low: float, high: float) -> None:
    axes = Figure().add_subplot()
    axes.plot([0, 1], [low, high])
    make_log(axes)
    bottom, top = axes.get_ylim()
    assert sum(bottom <= tick <= top for tick in axes.get_yticks()) >= 2
