"""docs/reliability.md shows what the tests have counted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"

counted = pytest.mark.skipif(
    not (DOCS / "reliability.json").is_file(),
    reason="the faults are not counted at this commit; `make reliability` does it",
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("reliability", DOCS / "reliability.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@counted
def test_the_page_shows_the_numbers_that_the_last_count_gave(script: ModuleType) -> None:
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    numbers = json.loads((DOCS / "reliability.json").read_text(encoding="utf-8"))
    assert script.written_into(page, numbers) == page
    assert page.count(script.table(numbers)) == 1


@counted
def test_every_fault_that_was_injected_was_recovered_from_without_loss(script: ModuleType) -> None:
    numbers = json.loads((DOCS / "reliability.json").read_text(encoding="utf-8"))
    found = script.total(numbers)
    assert found["recovered"] == found["injected"] > 240  # twelve runs were killed twenty times each
    assert found["lost_bytes"] == 0


def test_numbers_of_one_fault_are_added_up_over_its_tests(script: ModuleType, tmp_path: Path) -> None:
    noted = '<property name="fault: full disk" value="{&quot;injected&quot;: 2, &quot;recovered&quot;: 1}"/>'
    other = '<property name="something else" value="5"/>'
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testcase>{noted}{other}</testcase><testcase>{noted}</testcase></testsuites>")
    assert script.counted(report) == {"full disk": {"tests": 2, "injected": 4, "recovered": 2}}
