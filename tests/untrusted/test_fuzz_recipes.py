"""A recipe from anywhere: it is read, or refused in words; no traceback, no hang, nothing run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.command_line import understudy
from helpers.malformed import JUNK, mutants
from helpers.own_time import within
from understudy.recipes.schema import load_recipe, recipe_from
from understudy.utils.errors import UserError

WHOLE = load_recipe("digits/demo", ["method=dist", "update={name: dot, delta: 0.05}"]).as_dict()
MOST_LINES, MOST_CHARACTERS = 40, 20_000

fuzzed = settings(
    derandomize=True,
    database=None,
    deadline=None,  # `within` holds each example to a limit that a busy machine does not move
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
YAML_TEXT = st.text(alphabet="ab0:-?[]{},&*!|>'\"%@`# \n\t\x00\x1b~<.=\u2028\ufeff", max_size=60)
HOSTILE = [
    b"",
    b"\x00",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf- 1",
    b"data: !!python/object/apply:os.system ['touch it-ran']",
    b"data: !!python/object/new:os.system ['touch it-ran']",
    b"data: !!python/name:os.system",
    b"!!python/module:os",
    b"data: !!timestamp x",
    b"data: !!int ''",
    b"data: !!bool maybe",
    b"data: !!binary '////'",
    b"data: !!set {a, b}",
    b"data: &a [*a]",
    b"<<: [{epochs: 1}]",
    b"epochs: " + b"9" * 5_000,
    b"epochs: 0b_",
    b"? [a]\n: b",
    b"=: =",
    b"a: " + b"[" * 10_000,
    b"- " * 5_000,
    b"{a: " * 3_000,
    b"? " * 9_000,
    b"\n".join(b"k%d: 1" % number for number in range(12_000)),
    b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)),
    b"a: " + b"x" * 190_000,
    b"#" * 2_000_000,
]


def is_refused(load: Callable[[], Any]) -> bool:
    """Whether loading ends in a message that fits a screen; any other exception is what these tests look for."""
    try:
        load()
    except UserError as error:
        message = str(error)
    else:
        return False
    assert message.strip()
    assert len(message) < MOST_CHARACTERS
    assert message.count("\n") < MOST_LINES
    return True


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: str(content[:20]))
def test_hostile_text_is_refused_as_a_recipe_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_bytes(content)
    assert is_refused(lambda: load_recipe(tmp_path / "a.yaml"))
    assert not (tmp_path / "it-ran").exists()


def test_300_bent_recipes_are_read_or_refused_in_words(tmp_path: Path) -> None:
    refused = []

    @settings(fuzzed, max_examples=420)
    @given(mutants(WHOLE))
    @within(5.0)
    def try_one(tree: Any) -> None:
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="replace")
        if is_refused(lambda: load_recipe(tmp_path / "a.yaml")):
            refused.append(tree)

    try_one()
    assert len(refused) >= 300


def test_300_files_of_noise_are_refused_in_words(tmp_path: Path) -> None:
    refused = []

    @settings(fuzzed, max_examples=400)
    @given(st.binary(max_size=80) | YAML_TEXT.map(str.encode))
    @within(5.0)
    def try_one(content: bytes) -> None:
        (tmp_path / "a.yaml").write_bytes(content)
        assert is_refused(lambda: load_recipe(tmp_path / "a.yaml"))
        refused.append(content)

    try_one()
    assert len(refused) >= 300


def test_overrides_of_noise_are_read_or_refused_in_words() -> None:
    @settings(fuzzed, max_examples=200)
    @given(
        st.sampled_from(["method", "update.lr", "data.root", "seeds", "rows", "a.b.c", "." * 99, "", "student.kwargs"]),
        YAML_TEXT | st.text(max_size=20) | JUNK.map(str),
    )
    @within(5.0)
    def try_one(key: str, value: str) -> None:
        is_refused(lambda: recipe_from(WHOLE, [f"{key}={value}"]))

    try_one()


def test_bent_recipes_end_the_command_with_a_message_and_exit_code_2(tmp_path: Path) -> None:
    @settings(fuzzed, max_examples=60)
    @given(mutants(WHOLE))
    @within(5.0)
    def try_one(tree: Any) -> None:
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="replace")
        said = understudy("recipes", "show", tmp_path / "a.yaml")
        assert said.code == 0 or (said.code == 2 and said.err.strip())
        assert "Traceback" not in said.err

    try_one()
