"""Names from data, recipes and run folders are shown as what they are: no markup, script, formula or command."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers.command_line import understudy
from helpers.run_writer import results_of, write_run
from understudy.report import comparison_table, read_results, render, write_report
from understudy.runs.console import Display
from understudy.runs.folder import RunFolder
from understudy.utils.untrusted import visible

HOSTILE = [
    "<script>alert(1)</script>",
    "</text></svg><script>alert(2)</script>",
    '" onload="alert(3)',
    "' onmouseover='alert(4)",
    "<img src=x onerror=alert(5)>",
    "javascript:alert(6)",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "]]><!-- --><style>*{display:none}</style>",
    "&lt;script&gt;",
    "[red]red[/red] [/] [link=http://x]y[/link]",
    "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202ereversed \u2066x",
]


OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # by a terminal or a browser


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def run_of(folder: Path, texts: list[str]) -> Path:
    """A run in which every string that may come from elsewhere is one of these, or all of them."""
    every = " ".join(texts)
    run = write_run(folder, classes=texts, num_classes=len(texts), title=every, rows=("alone", *texts), seeds=(0,))
    data = results_of(run, name=every)
    data["data"] |= {"name": every, "val_origin": every, "augmentation": every, "notes": texts}
    data["teacher"] |= {"model": every, "starts_from": every}
    data["published"] = {"top1": 90.0, "source": every}
    data["deployed"] = {"row": every, "seed": 0, "folder": every}
    for row in data["rows"]:
        row["student"] |= {"model": every, "starts_from": every}
        row["methods"] = [{"name": text, text: text} for text in texts]
        row["update"] = {"name": every, every: texts}
    written = RunFolder(run)
    written.write_json(written.results_file, data)
    written.write_json(written.environment_file, {"command": every, every: {text: text for text in texts}})
    written.recipe_file.write_text("\n".join(texts))
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tmp_path_factory.mktemp("hostile") / "x", HOSTILE)


def test_the_page_shows_hostile_strings_as_text(hostile: Path, tmp_path: Path) -> None:
    harmless = run_of(tmp_path / "x", [f"harmless {number}" for number in range(len(HOSTILE))])
    page = write_report(hostile).read_text()
    found, plain = Tags(page), Tags(write_report(harmless).read_text())
    assert found.tags == plain.tags
    assert {name for name, _ in found.attributes} == {name for name, _ in plain.attributes}
    assert not found.tags & {"iframe", "object", "embed", "link", "img", "base", "form"}
    assert page.count("<script>") == 1
    assert [value for name, value in found.attributes if name == "href" and not value.startswith("#")] == []
    assert not OBEYED.search(page)
    assert "{{ 7 * 7 }}" in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10


def test_the_page_forbids_all_scripts_but_its_own_and_everything_from_elsewhere(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "x", rows=("alone",), seeds=(0,))).read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{own}'"
    assert f'Content-Security-Policy" content="{policy}"' in page
    assert "http" not in re.sub(r"//.*", "", script)


def test_the_terminal_shows_hostile_strings_as_text(hostile: Path) -> None:
    said = understudy("report", hostile)
    assert said.code == 0
    assert not OBEYED.search(said.out + said.err)
    assert all(visible(text) in said.out for text in HOSTILE)


@pytest.mark.parametrize("form", ["md", "csv", "latex"])
def test_tables_hold_no_character_that_a_terminal_obeys(hostile: Path, form: str) -> None:
    assert not OBEYED.search(render(comparison_table(read_results(hostile)), form))


def test_a_message_shows_what_a_recipe_hides(tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J.yaml").write_text("[")
    said = understudy("train", tmp_path / "\x1b[2J.yaml")
    assert said.code == 2
    assert "\\x1b[2J.yaml is no YAML" in said.err
    assert not OBEYED.search(said.err)


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)"])
def test_a_row_name_is_no_formula_to_a_spreadsheet(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "x", rows=("alone", name))
    written = list(csv.reader(io.StringIO(render(comparison_table(read_results(run)), "csv"))))
    assert written[-1][0] == f"'{name}"


def test_what_a_run_says_shows_control_characters_and_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Display().say("class \x1b[2J\u202e \udce9 [red]x[/red] [/]")
    assert capsys.readouterr().out == "class \\x1b[2J\\u202e \\udce9 [red]x[/red] [/]\n"


def test_ordinary_text_of_any_script_is_left_alone() -> None:
    text = "Katze 猫 قطة 👩‍🔬 café\tcol\nnext ± – “q”"
    assert visible(text) == text


def test_a_class_whose_name_is_no_utf8_comes_through_every_file(tmp_path: Path) -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    run = write_run(tmp_path / "x", rows=("alone",), seeds=(0,))
    written = RunFolder(run)
    data = results_of(run)
    data["data"]["classes"][0] = name
    written.write_json(written.results_file, data)
    assert written.results()["data"]["classes"][0] == name
    assert read_results(run).data.classes[0] == "caf\\udce9"
    assert "caf\\udce9" in write_report(run).read_text()
