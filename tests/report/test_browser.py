"""The page in a real browser: nothing complains, nothing is requested, tables sort, figures tell their values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from helpers.browser import Browser
from helpers.run_writer import write_disagreements, write_run
from understudy.report import read_results, write_report

CLASSES = ["<script>alert(1)</script>", "Klapperschlange mit sehr langem Namen", "Öl & tanker", *"3456789"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("browser") / "<b>run", classes=CLASSES)
    write_disagreements(run)
    return write_report(run)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def center(browser: Browser, selector: str) -> tuple[float, float]:
    """Of the first element, scrolled into sight."""
    script = (
        f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}}); "
        "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    x, y = browser.value(script)
    return x, y


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_complains_nothing_is_requested_and_only_tables_scroll_sideways(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)

    assert browser.complaints == []
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value("document.images.length") == 4
    assert browser.value("[...document.images].every(image => image.naturalWidth === 8)")


def test_a_script_that_is_not_the_pages_own_does_not_run(browser: Browser, page: Path, tmp_path: Path) -> None:
    source = page.read_text(encoding="utf-8")
    changed = tmp_path / "changed.html"
    changed.write_text(source.replace("<main>", "<script>document.title = 'taken'</script><main>"), encoding="utf-8")

    browser.open(changed)

    assert browser.value("document.title") != "taken"
    assert any("Content Security Policy" in text for text in browser.complaints)


def test_a_click_on_a_heading_sorts_and_another_one_turns_it_round(browser: Browser, page: Path) -> None:
    browser.open(page)
    names = "[...document.querySelectorAll('#table tbody tr')].slice(0, 4).map(line => line.cells[0].textContent)"
    means = {row.name: row.summary.scores["top1"].mean for row in read_results(page.parent).rows}
    best_first = sorted(means, key=lambda name: -means[name])

    browser.click(*center(browser, "#table th:nth-child(2) button"))
    assert browser.value(names) == ["teacher", *best_first]
    assert browser.value("document.querySelector('#table th:nth-child(2)').ariaSort") == "descending"
    browser.click(*center(browser, "#table th:nth-child(2) button"))
    assert browser.value(names) == ["teacher", *reversed(best_first)]


def test_pointing_at_a_curve_tells_the_epoch_and_every_rows_value(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.move(*center(browser, "#curves .plot.wide"))

    told = browser.value("document.querySelector('#tip').hidden ? null : document.querySelector('#tip').innerText")
    assert told is not None
    assert told.startswith("epoch ")
    assert all(row in told for row in ("alone", "kd", "kd+dot"))
    browser.move(2, 2)
    assert browser.value("document.querySelector('#tip').hidden")


def test_pointing_at_a_cell_tells_its_classes_as_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    script = (
        "(() => { const plot = document.querySelector('#confusion .plot.wide'); "
        "plot.scrollIntoView({block: 'center'}); const [panel] = JSON.parse(plot.dataset.hover); "
        "const [x, y] = panel.series[0].points[0]; const svg = plot.querySelector('svg'); "
        "const frame = svg.getBoundingClientRect(); const scale = frame.width / svg.viewBox.baseVal.width; "
        "return [frame.left + x * scale, frame.top + y * scale]; })()"
    )
    browser.move(*browser.value(script))

    told = browser.value("document.querySelector('#tip').innerText")
    assert "<script>alert(1)</script> is taken for" in told
    assert browser.value("document.querySelectorAll('script').length") == 1


def test_a_phone_gets_figures_of_its_own_and_words_are_not_broken(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    shown = "getComputedStyle(document.querySelector('#curves .plot.{}')).display"
    assert browser.value(shown.format("wide")) == "none"
    assert browser.value(shown.format("narrow")) == "block"
    letter = "document.querySelector('#accuracy .plot.narrow text').getBoundingClientRect().height"
    assert browser.value(letter) > 9  # pixels
    cells = "[...document.querySelectorAll('table.words td')].map(cell => cell.getBoundingClientRect().width)"
    assert min(browser.value(cells)) > 40
    cut = "document.querySelector('#table .scroll').classList.contains('is-cut')"
    assert browser.value(cut)
    assert browser.value("getComputedStyle(document.querySelector('#table .hint')).display") == "block"


def test_the_dark_page_is_dark_figures_too(browser: Browser, page: Path, tmp_path: Path) -> None:
    bright = {}
    for dark in (False, True):
        browser.open(page, dark=dark)
        browser.screenshot(tmp_path / "page.png")
        pixels = Image.open(tmp_path / "page.png").convert("L")
        bright[dark] = sum(pixels.resize((64, 64)).tobytes()) / 64**2
    assert bright[False] > 200
    assert bright[True] < 70
