"""The pages of docs/methods are what the methods say of themselves; `make docs` writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.cli.method_pages import method_list, method_page
from understudy.methods import METHODS

PAGES = Path(__file__).parents[2] / "docs" / "methods"
SHIPPED = sorted(name for name, method in METHODS.items() if method.__module__.startswith("understudy."))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_page_is_up_to_date(name: str) -> None:
    assert (PAGES / f"{name}.md").read_text(encoding="utf-8") == method_page(name), "run `make docs`"


def test_there_is_no_page_of_a_method_that_is_gone() -> None:
    assert sorted(page.stem for page in PAGES.glob("*.md")) == SHIPPED


def test_the_list_has_every_method_with_venue_and_year() -> None:
    lines = dict(line.split(maxsplit=1) for line in method_list().splitlines())
    assert lines.keys() == {"none", *METHODS}
    assert lines["dist"].startswith("NeurIPS 2022")


def test_a_page_says_weights_needs_and_settings() -> None:
    page = method_page("dkd")
    assert "Zhao, Cui, Song, Qiu, Liang" in page
    assert "Weights: task 1, this method 1, warm-up 20 epochs" in page
    assert "Needs: hard labels, teacher logits." in page
    assert "at least 3 classes" in page
    assert "- `beta` = 8.0" in page
