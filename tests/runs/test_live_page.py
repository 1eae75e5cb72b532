"""`understudy report --live`: the page of a run that goes on, until it ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.run_writer import write_run
from understudy.runs import live_page
from understudy.runs.folder import RunFolder

REFRESH = '<meta http-equiv="refresh" content="5">'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run before its end, whose results lie beside it."""
    folder = write_run(tmp_path / "run", num_epochs=3)
    (folder / "results.json").rename(tmp_path / "results.json")
    (folder / "recipe.yaml").write_text("epochs: 8\nseeds: [0, 1, 2]\ntask: classification\n")
    monkeypatch.setattr(live_page, "GRACE_SECONDS", 0.0)
    return RunFolder(folder)


def while_asleep(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    monkeypatch.setattr(live_page.time, "sleep", lambda seconds: do())


def test_it_renews_itself_until_the_run_ends_and_is_then_the_page_of_the_finished_run(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_page, "is_held", lambda path: None if run.is_finished else True)
    pages = []

    def end() -> None:
        pages.append(run.report_file.read_text(encoding="utf-8"))
        if len(pages) == 2:
            shutil.copy(run.path.parent / "results.json", run.results_file)

    while_asleep(monkeypatch, end)

    assert live_page.keep_page(run)
    assert all(REFRESH in page and "Unfinished: epoch 3 of 8" in page for page in pages)
    page = run.report_file.read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' not in page
    assert "Unfinished" not in page
    assert [file.name for file in run.path.iterdir() if file.name.startswith(".")] == []


def test_of_a_run_that_was_stopped_it_is_written_once_and_does_not_renew_itself(run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "page.html"

    assert not live_page.keep_page(run, out)
    assert 'http-equiv="refresh"' not in out.read_text(encoding="utf-8")
    assert not run.report_file.exists()


def test_ctrl_c_leaves_a_page_that_does_not_renew_itself(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        assert REFRESH in run.report_file.read_text(encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr(live_page, "is_held", lambda path: True)
    while_asleep(monkeypatch, interrupt)

    with pytest.raises(KeyboardInterrupt):
        live_page.keep_page(run)
    assert 'http-equiv="refresh"' not in run.report_file.read_text(encoding="utf-8")
