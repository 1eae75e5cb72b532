"""The files by which the repository is kept: they name what is there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import understudy
from understudy.methods import METHODS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
# What installing the project with its dev extra puts into .venv/bin, by the package that brings it.
TOOLS = {"ruff": "ruff", "mypy": "mypy", "lint-imports": "import-linter", "python": None, "understudy": None}
FOR_CONTRIBUTORS = ["CONTRIBUTING.md", "AGENTS.md", "docs/house-style.md"]
WITH_COMMANDS = [
    "README.md", "CONTRIBUTING.md", "AGENTS.md",
    ".pre-commit-config.yaml", ".github/workflows/ci.yml", ".github/PULL_REQUEST_TEMPLATE.md",
]  # fmt: skip
OF_A_RUN = {"metrics.jsonl", "results.json", "recipe.yaml"}  # what a run folder holds
PLACEHOLDERS = {"checks.py", "checking.py", "dkd.py", "crd.py"}  # file names as examples of names
WALKS = ["method", "update", "task", "figure", "data source", "model family", "tracker"]


def read(file: str) -> Any:
    return yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))


def commands() -> Iterator[str]:
    """What the hooks and the workflow run."""
    for repository in read(".pre-commit-config.yaml")["repos"]:
        yield from (hook["entry"] for hook in repository["hooks"])
    for step in read(".github/workflows/ci.yml")["jobs"]["tests"]["steps"]:
        yield from [step["run"]] if "run" in step else []


@pytest.mark.parametrize("command", commands())
def test_hooks_and_workflow_run_what_there_is(command: str) -> None:
    program, *words = command.split()
    if program == "make":
        assert set(words) <= TARGETS
        return
    folder, _, tool = program.rpartition("/")
    assert folder == ".venv/bin"
    package = TOOLS[tool]
    assert package is None or any(
        re.match(rf"{package}\b", needed) for needed in PROJECT["optional-dependencies"]["dev"]
    )


@pytest.mark.parametrize("file", WITH_COMMANDS)
def test_every_make_target_that_a_file_names_is_there(file: str) -> None:
    named = set(re.findall(r"(?:`|^\s*|run: |entry: )make ([a-z-]+)", (ROOT / file).read_text("utf-8"), re.MULTILINE))
    assert named
    assert named <= TARGETS


def test_hooks_are_local_and_cover_what_make_check_does() -> None:
    repositories = read(".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = " ".join(hook["entry"] for hook in repositories[0]["hooks"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    checked = re.findall(
        r"^\t\$\(BIN\)/(\S+(?: (?:check|format))?)", makefile[makefile.index("\ncheck:") :].split("\n\n")[0], re.M
    )
    assert len(checked) == 4
    assert all(tool in hooks for tool in checked)


def test_the_workflow_tests_the_declared_pythons_and_the_oldest_declared_torch() -> None:
    job = read(".github/workflows/ci.yml")["jobs"]["tests"]
    assert f">={job['strategy']['matrix']['python'][0]}" == PROJECT["requires-python"]
    oldest = next(needed.partition(">=")[2] for needed in PROJECT["dependencies"] if needed.startswith("torch>="))
    assert any(f'"torch=={oldest}.*"' in command for command in commands())
    assert {"make test", "make check"} <= {step.get("run") for step in job["steps"]}


def test_the_citation_is_of_this_version_and_names_the_papers_as_the_methods_do() -> None:
    citation = read("CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    cited = {paper["title"]: paper for paper in citation["references"]}
    for name in ("dist", "projector"):
        paper = METHODS[name].paper
        assert paper is not None
        found = cited[paper.title]
        assert found["year"] == paper.year
        assert ", ".join(author["family-names"] for author in found["authors"]) == paper.authors
        assert found["identifiers"][0]["value"] == f"arXiv:{paper.arxiv}"
    assert "DOT: A Distillation-Oriented Trainer" in cited


def test_the_changelog_is_of_names_that_are_there() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    python = next(line for line in text.splitlines() if line.startswith("- Python:"))
    assert set(re.findall(r"`(\w+)`", python)) <= set(understudy.__all__)


def test_a_bug_report_asks_for_fields_with_names_of_their_own() -> None:
    body = read(".github/ISSUE_TEMPLATE/bug.yml")["body"]
    names = [field["id"] for field in body if field["type"] != "markdown"]
    assert len(names) == len(set(names)) == 3


def quoted(file: str) -> list[str]:
    """What stands in backticks on a page, its blocks of code left out."""
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / file).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


@pytest.mark.parametrize("file", FOR_CONTRIBUTORS)
def test_every_path_that_a_page_for_contributors_names_is_there(file: str) -> None:
    words = [word for text in quoted(file) for word in text.split() if re.fullmatch(r"[\w./*-]+", word)]
    paths = {
        word
        for word in words
        if re.match(r"(src|tests|docs|benchmarks)\b", word) or re.search(r"\w\.(py|md|json|ya?ml|toml)$", word)
    }
    named = paths - OF_A_RUN - PLACEHOLDERS
    assert len(named) > 5
    # NAME stands for any name.
    assert [path for path in sorted(named) if not list(ROOT.glob(path.replace("NAME", "*")))] == []


@pytest.mark.parametrize("file", FOR_CONTRIBUTORS)
def test_every_test_and_constant_that_a_page_for_contributors_names_is_there(file: str) -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py")
    )
    words = " ".join(text for text in quoted(file) if not text.endswith(".py"))
    names = set(re.findall(r"\b(?:test_[a-z]\w{5,}|[A-Z]+_[A-Z]+)\b(?!\.py)", words))
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", sources)] == []


def test_the_examples_of_the_house_style_are_lines_of_the_code() -> None:
    text = (ROOT / "docs" / "house-style.md").read_text(encoding="utf-8")
    examples = re.findall(r"^  `([\w/.]+)`: `(.+)`$", text, re.MULTILINE)
    assert len(examples) > 15
    assert [code for path, code in examples if code not in (ROOT / path).read_text(encoding="utf-8")] == []


def test_there_is_a_walk_for_each_kind_of_addition_and_each_starts_with_a_file() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    walks = re.findall(
        r"^\*\*An? ([a-z ]+)(?:\*\*|\.\*\*)(.*?)(?=^\*\*|\Z)", text.partition("## Seven walks")[2], re.M | re.S
    )
    assert [name for name, _ in walks] == WALKS
    assert all("`src/understudy/" in walk and (name == "task" or "](docs/own-" in walk) for name, walk in walks)


def test_the_readme_leads_to_the_pages_for_contributors() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"CONTRIBUTING.md", "docs/architecture.md"} <= set(re.findall(r"\]\(([^)]+)\)", text))
