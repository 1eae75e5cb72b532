"""A figure of one's own, in one file of an installed package: every page has it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.command_line import documented, done, install, refused, understudy
from helpers.run_writer import write_run
from understudy import UserError
from understudy.report import all_plots, read_run
from understudy.report.figures import FIGURES, Plot, register_figure
from understudy.report.figures.style import new_figure
from understudy.report.run_data import RunData

SHIPPED = ["curves", "accuracy", "differences", "classes", "confusion", "calibration", "outcomes"]  # below the table


@pytest.fixture(autouse=True)
def seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The figure of the document, in a package that is installed beside understudy, and forgotten afterwards."""
    known = dict(FIGURES)
    install(tmp_path / "site", "own_seeds", documented("seeds_plot"), group="understudy.figures")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    FIGURES.clear()
    FIGURES.update(known)
    sys.modules.pop("own_seeds", None)


def sections(page: Path) -> list[str]:
    return re.findall(r'<section id="(\w+)">', page.read_text(encoding="utf-8"))


def test_the_page_of_a_run_has_the_figure_of_a_package_behind_its_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "x")
    done("report", run)
    assert sections(run / "report.html") == ["table", *SHIPPED, "seeds", "mistakes", "use", "again"]
    assert "How far the seeds agree" in (run / "report.html").read_text(encoding="utf-8")


def test_a_run_without_its_numbers_has_no_such_figure(tmp_path: Path) -> None:
    importlib.import_module("own_seeds")
    plots = all_plots(read_run(write_run(tmp_path / "x", seeds=[0])))
    assert [plot.name for plot in plots] == ["cost", *SHIPPED]


def test_its_place_is_where_it_says(tmp_path: Path) -> None:
    importlib.import_module("own_seeds")
    register_figure("seeds", place=35)(FIGURES["seeds"].draw)
    assert [plot.name for plot in all_plots(read_run(write_run(tmp_path / "x")))] == [
        "cost", "curves", "accuracy", "seeds", "differences", "classes", "confusion", "calibration", "outcomes"
    ]  # fmt: skip


def test_another_figure_of_its_name_is_refused() -> None:
    importlib.import_module("own_seeds")
    with pytest.raises(ValueError, match="there is a figure 'seeds' already: own_seeds"):

        @register_figure("seeds")
        def other(run: RunData) -> Plot | None:
            """Another one."""


def test_a_figure_that_fails_is_named_and_the_way_out_too(tmp_path: Path) -> None:
    @register_figure("broken")
    def broken(run: RunData) -> Plot | None:
        raise KeyError("no such row")

    run = write_run(tmp_path / "x")
    message = refused("report", run)
    assert "the figure 'broken' of test_own_figure cannot be drawn: KeyError: 'no such row'" in message
    assert "makes the page once the figure is mended or uninstalled" in message


def test_a_plot_with_the_name_of_another_figure_is_refused(tmp_path: Path) -> None:
    @register_figure("mine")
    def mine(run: RunData) -> Plot | None:
        return Plot("curves", "Mine", "Nothing to read.", new_figure(1))

    run = read_run(write_run(tmp_path / "x"))
    with pytest.raises(UserError, match=r"figure 'mine' .* its Plot is named 'curves'; name it 'mine', too"):
        all_plots(run)


def test_a_package_whose_figure_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "site" / "own_seeds.py").write_text("import nothing_of_this_name")
    said = understudy("methods")
    assert said.code == 0
    assert said.err.count("the figure 'seeds' is left out: package own-seeds cannot be imported: Module") == 1
