"""A run folder from anywhere: its page is written, or a message; what cannot be read is said on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

from helpers.command_line import understudy
from helpers.malformed import JUNK, mutants, nested
from helpers.own_time import within
from helpers.run_writer import results_of, write_run
from understudy.report import (
    RunData,
    comparison_table,
    cost_sentence,
    headline,
    read_run,
    render,
    row_sentence,
    write_report,
)
from understudy.utils.errors import UserError

MOST_CHARACTERS = 20_000

fuzzed = settings(
    derandomize=True,
    database=None,
    deadline=None,  # `within` holds each example to a limit that a busy machine does not move
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
KEYS = ["kind", "row", "seed", "epoch", "train", "val", "seconds", "model", "role", "images_per_second"]
LINES = st.fixed_dictionaries(
    {}, optional={key: JUNK | st.sampled_from(["epoch", "speed", "run", "kd", "student", 1]) for key in KEYS}
)
SHAPES = arrays.array_shapes(min_dims=0, min_side=0, max_side=3)
NOISE = st.binary(max_size=60) | st.text(alphabet='{}[]":,0123456789.eE-+ntf\\u\x00 ', max_size=40).map(str.encode)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo", rows=("alone", "kd"), seeds=(0,), num_epochs=2)


def said_of(run: Path) -> str | None:
    """All that is said of a run without a figure, or None where it is refused in words that fit a screen."""
    try:
        found = read_run(run)
    except UserError as error:
        message = str(error)
    else:
        return sentences_of(found)
    assert message.strip()
    assert len(message) < MOST_CHARACTERS
    return None


def sentences_of(found: RunData) -> str:
    """Headline, table in every form, a sentence for each row, and what is missing.

    None of it may fail, whatever the numbers are.
    """
    results = found.results
    table = comparison_table(results, found.timing)
    forms = [render(table, form) for form in ("md", "csv", "latex")]
    sentences = [row_sentence(results, row) for row in results.rows]
    cost = cost_sentence(results, found.timing) or ""
    return "\n".join([headline(results), *forms, *sentences, cost, *found.missing])


def test_300_bent_results_are_read_or_refused_in_words(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "x")
    bent = []

    @settings(fuzzed, max_examples=420)
    @given(mutants(results_of(run)))
    @within(5.0)
    def try_one(tree: Any) -> None:
        (tmp_path / "x/results.json").write_text(json.dumps(tree))
        bent.append(said_of(tmp_path / "x"))

    try_one()
    assert len(bent) >= 300
    assert 100 < bent.count(None) < len(bent) - 20  # the fuzzer bends some, and breaks others


def test_bent_results_of_the_schema_before_are_read_or_refused_in_words(tmp_path: Path) -> None:
    whole = json.loads((Path(__file__).parents[1] / "report/schema1/results.json").read_text())
    bent = []

    @settings(fuzzed, max_examples=100)
    @given(mutants({**whole, "rows": whole["rows"][:1]}))
    @within(5.0)
    def try_one(tree: Any) -> None:
        (tmp_path / "results.json").write_text(json.dumps(tree))
        bent.append(said_of(tmp_path))

    try_one()
    assert 10 < bent.count(None) < len(bent) - 3  # some are refused, and some are read


def test_300_files_of_noise_are_no_results(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "x")
    refused = []

    @settings(fuzzed, max_examples=320)
    @given(NOISE | JUNK.map(lambda value: json.dumps(value).encode()))
    @within(5.0)
    def try_one(content: bytes) -> None:
        (tmp_path / "x/results.json").write_bytes(content)
        assert said_of(tmp_path / "x") is None
        refused.append(content)

    try_one()
    assert len(refused) >= 300


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
def test_300_malformed_lines_cost_those_lines_only(run: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(run, tmp_path / "x")
    whole = (run / name).read_bytes()
    lines = []

    @settings(fuzzed, max_examples=320)
    @given(st.lists(NOISE | LINES.map(lambda line: json.dumps(line).encode()), min_size=1, max_size=3))
    @within(5.0)
    def try_one(bent: list[bytes]) -> None:
        (tmp_path / "x" / name).write_bytes(b"\n".join([*bent, whole]))
        found = read_run(tmp_path / "x")
        assert len(found.epochs) >= 4
        assert len(found.timing.speeds) >= 2
        assert said_of(tmp_path / "x")
        lines.extend(bent)

    try_one()
    assert len(lines) >= 300


def test_predictions_of_any_shape_and_kind_are_drawn_or_said_to_be_unfit(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "x")
    kinds = st.sampled_from([np.bool_, np.int8, np.int64, np.uint64, np.float16, np.float64])

    @settings(fuzzed, max_examples=60)
    @given(st.fixed_dictionaries({}, optional={
        f"val/{name}": kinds.flatmap(lambda kind: arrays.arrays(kind, SHAPES))
        for name in ("labels", "teacher", "alone/0", "kd/0")
    }))  # fmt: skip
    @within(5.0)
    def try_one(tensors: dict[str, np.ndarray]) -> None:
        save_file(
            {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
            tmp_path / "x/predictions.safetensors",
        )
        found = read_run(tmp_path / "x")
        assert found.predictions is not None or "predictions.safetensors" in found.missing[0]

    try_one()


def test_bent_run_folders_get_a_page_or_a_message(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "x")
    written = []

    @settings(fuzzed, max_examples=30)
    @given(mutants(results_of(run)["rows"]), st.lists(LINES, max_size=2), JUNK)
    @within(5.0)
    def try_one(rows: Any, lines: list[Any], environment: Any) -> None:
        (tmp_path / "x/results.json").write_text(json.dumps(results_of(run, rows=rows)))
        (tmp_path / "x/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / "x/environment.json").write_text(json.dumps({"command": environment}))
        said = understudy("report", tmp_path / "x")
        assert said.code == 0 or (said.code == 2 and said.err.strip())
        assert "Traceback" not in said.err
        written.append(said.code)

    try_one()
    assert 0 in written
    assert 2 in written


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"name": "x", "num_classes": 10**18, "num_train": 1, "num_val": 1}},
        {"rows": []},
        {"seeds": []},
        {"seeds": list(range(2_000))},
        {"name": "\ud800", "title": "\x1b[2J\ud800"},
        {"comparisons": nested(100)},
        {"epochs": 10**4_000},
    ],
    ids=lambda change: next(iter(change)),
)
def test_results_that_would_fill_the_memory_or_the_screen_are_refused_or_shown_safely(
    run: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(run, tmp_path / "x")
    (tmp_path / "x/results.json").write_text(json.dumps(results_of(run, **change)))
    said = understudy("report", tmp_path / "x")
    assert said.code in (0, 2)
    assert "\x1b" not in said.out + said.err


def test_a_page_is_written_of_numbers_at_the_edge_of_what_a_float_holds(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "x")
    text = json.dumps(results_of(run)).replace('"macs": 190000', '"macs": 9223372036854775807')
    for number in ("1e308", "-1e308", "5e-324", "1e99", "NaN", "Infinity", "1e999", "null"):
        bent = text.replace('"top1": 9', f'"loss": {number}, "top1": 9').replace(
            '"mean": 9', f'"mean": {number}, "n": 9'
        )
        (tmp_path / "x/results.json").write_text(bent)
        train = f'"train": {{"task_loss": {number}, "kl_to_teacher": {number}}}'
        line = f'{{"kind": "epoch", "row": "kd", "seed": 0, "epoch": 1, {train}}}\n'
        (tmp_path / "x/metrics.jsonl").write_text(line)
        write_report(tmp_path / "x")
