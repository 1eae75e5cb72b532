"""The tables of docs/results.md are what the types of results.json say of themselves; `make docs` writes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from understudy.cli.results_page import types_of_results, with_tables

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


def test_the_tables_are_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `make docs`"


def test_every_type_in_the_file_has_its_table_and_every_key_its_words() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- keys of (\w+) -->", text)) == set(types_of_results())
    assert not re.findall(r"^\| `\w+` \|  \|$", text, re.MULTILINE)


def test_a_table_has_a_line_for_each_key_as_the_file_spells_it() -> None:
    table = with_tables("<!-- keys of Results -->\nof yesterday\n<!-- end -->")
    assert "of yesterday" not in table
    assert "| `schema` | `2`; another number is another layout |" in table
    assert "| `headline_metric` |" in table


def test_a_type_that_there_is_not_is_an_error() -> None:
    with pytest.raises(KeyError, match="Nothing"):
        with_tables("<!-- keys of Nothing -->\n<!-- end -->")
