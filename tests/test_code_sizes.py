"""Files and functions stay small enough to be read at a sitting; the few that do not say why."""

from __future__ import annotations

import ast
from pathlib import Path

import understudy

SOURCES = Path(understudy.__file__).parent
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 50  # its docstring apart, which lists what a person may set
LONGER_FILES = {
    "models/hugging_face.py": "the one door to transformers",
    "recipes/schema.py": "every setting of a recipe beside the checks that hold between settings",
}
LONGER_FUNCTIONS = {
    "api/distill.py distill": "takes every setting of a run by name, and only hands them on",
}


def test_files_are_short_but_for_those_that_say_why() -> None:
    lines = {file.relative_to(SOURCES).as_posix(): len(text(file).splitlines()) for file in SOURCES.rglob("*.py")}
    longer = {file: count for file, count in lines.items() if count > MOST_LINES_OF_A_FILE}
    assert sorted(longer) == sorted(LONGER_FILES), longer


def test_functions_are_short_but_for_those_that_say_why() -> None:
    lines = {
        f"{file.relative_to(SOURCES).as_posix()} {node.name}": code_lines(node)
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(text(file)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    longer = {function: count for function, count in lines.items() if count > MOST_LINES_OF_A_FUNCTION}
    assert sorted(longer) == sorted(LONGER_FUNCTIONS), longer


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From `def` to the end, less the docstring."""
    has_docstring = ast.get_docstring(function) is not None
    of_docstring = (function.body[0].end_lineno or 0) - function.body[0].lineno + 1 if has_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - of_docstring


def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
