"""Names and paths from elsewhere: nothing is written outside the run folder, nothing grows without end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from helpers.command_line import DIGITS, DIGITS_ALONE, RECIPE, TEACHER, done, refused, understudy
from helpers.images import coloured_jpeg
from helpers.run_writer import write_run
from understudy import load_student
from understudy.analysis import per_class_accuracy
from understudy.models import create_model, save_student
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import load_recipe, recipe_from
from understudy.utils.errors import UserError
from understudy.utils.untrusted import MAX_DEPTH, lines_of, plain_json, plain_yaml, text_of

NO_PATHS = ["x" * 300, "nul\0byte", "~nobody-has-this-name/x", "a/" * 3_000]
SETTINGS = {"data": {"root": "digits"}, "student": {"model": "cifar:resnet8"}, "epochs": 1}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize("row", ["../../x", "/tmp/x", "kd/../../x", "..", "kd\0", "kd\n/x", "", "~", "x" * 300, "con:"])
def test_a_row_is_no_path(row: str) -> None:
    settings = {**SETTINGS, "teacher": {"model": "cifar:resnet8"}, "rows": ["alone", row]}
    with pytest.raises(UserError, match=r"row .*is unknown"):
        rows_of(recipe_from(settings))


def test_spaces_around_the_parts_of_a_row_name_no_folder() -> None:
    settings = {**SETTINGS, "teacher": {"model": "cifar:resnet8"}, "rows": [" alone\n", "kd + dot"]}
    assert [row.name for row in rows_of(recipe_from(settings))] == ["alone", "kd+dot"]


@pytest.mark.parametrize("key", ["out", "name", "run", "report", "checkpoints", "student.folder", "data.cache_dir"])
def test_no_setting_of_a_recipe_says_where_to_write(key: str) -> None:
    with pytest.raises(UserError, match="unknown"):
        recipe_from(SETTINGS, [f"{key}=../../x"])


@pytest.mark.parametrize("key", ["cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "weights"])
@pytest.mark.parametrize("model", ["cifar:resnet8", "timm:resnet18", "torchvision:resnet18"])
def test_arguments_of_a_network_read_fetch_and_write_nothing(key: str, model: str) -> None:
    with pytest.raises(UserError, match=f"kwargs may not hold {key}"):
        create_model(model, num_classes=2, weights="none", kwargs={key: "../../x"})


def test_a_run_writes_into_its_own_folder_alone(tmp_path: Path) -> None:
    done("train", *DIGITS_ALONE, "--out", "x")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["x"]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_page_replaces_a_link_instead_of_writing_to_where_it_points(tmp_path: Path) -> None:
    run = write_run(tmp_path / "x", rows=("alone",), seeds=(0,))
    (tmp_path / "precious").write_text("precious")
    for name in ("report.html", ".report.html.partial"):
        (run / name).symlink_to(tmp_path / "precious")
    assert understudy("report", run).code == 0
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (run / "report.html").is_symlink()


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
def test_a_run_that_would_write_through_a_link_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("precious")
    Path("x").mkdir()
    settings = load_recipe_as_train_does()
    Path("x/recipe.yaml").write_text(yaml.safe_dump(settings))
    Path("x/environment.json").write_text("{}")
    Path("x", name).symlink_to(tmp_path / "precious")
    assert "is a link, and what it points to would be written to" in refused("train", *DIGITS_ALONE, "--out", "x")
    assert (tmp_path / "precious").read_text() == "precious"


def load_recipe_as_train_does() -> dict[str, Any]:
    Path("a.yaml").write_text(RECIPE)
    return load_recipe("a.yaml").as_dict()


@pytest.mark.parametrize("path", NO_PATHS)
@pytest.mark.parametrize("key", ["data.root", "student.weights", "method.init_from"])
def test_a_setting_that_no_system_has_as_a_path_is_refused_in_words(key: str, path: str) -> None:
    settings = load_recipe_as_train_does()
    group, name = key.split(".")
    settings[group] = [{"name": "projector", name: path}] if group == "method" else {**settings[group], name: path}
    Path("a.yaml").write_text(yaml.safe_dump(settings))
    refused("train", "a.yaml", "--out", "x")


@pytest.mark.parametrize("path", [path for path in NO_PATHS if "\0" not in path])
def test_a_word_that_no_system_has_as_a_path_is_refused_in_words(path: str) -> None:
    refused("train", path)
    refused("train", f"{path}.yaml")
    refused("train", *DIGITS_ALONE, "--out", path)
    refused("report", path)
    refused("evaluate", path)
    Path("a.yaml").write_text(f"extends: '{path}'")
    refused("train", "a.yaml")


def test_a_chain_of_recipes_that_extend_each_other_has_an_end() -> None:
    for number in range(40):
        Path(f"{number}.yaml").write_text(f"extends: {number + 1}.yaml")
    assert "stands on more than 20 others" in refused("train", "0.yaml")


@pytest.mark.parametrize(
    "setting",
    ["seeds=1000000000000", "threads=100000000", "data.workers=1000000", "data.image_size=1000000000",
     "data.batch_size=1000000000000", "epochs=" + "9" * 30, "student.kwargs={width: .inf, depth: " + "9" * 30 + "}"],
)  # fmt: skip
def test_numbers_that_would_fill_the_machine_are_refused_at_once(setting: str) -> None:
    began = time.process_time()
    refused("train", *DIGITS_ALONE, setting, "--out", "x")
    assert time.process_time() - began < 5
    assert not Path("x").exists()


def test_a_typed_number_of_seeds_is_refused_at_once() -> None:
    assert "at most 1,000" in refused("train", *DIGITS_ALONE, "--seeds", "1000000000000")


@pytest.mark.parametrize("rows", ["1:2", "0:30", "10:59", "1:20:30", "1:20.5"])
def test_rows_are_text_and_no_numbers_of_base_60(rows: str) -> None:
    assert plain_yaml(f"rows: {rows}\nother: 12", what="x") == {"rows": rows, "other": 12}


def test_yaml_of_any_depth_that_is_allowed_is_read_and_one_more_is_not() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert plain_yaml(deepest, what="x")
    with pytest.raises(UserError, match=f"nested more than {MAX_DEPTH} deep"):
        plain_yaml(f"[{deepest}]", what="x")


@pytest.mark.parametrize(
    ("text", "value"),
    [("a: 2024-01-01", {"a": "2024-01-01"}), ("a: <<", {"a": "<<"}), ("a: =", {"a": "="}), ("a: 1e3", {"a": "1e3"}),
     ("a: 16:48", {"a": "16:48"}), ("a: 1:30.5", {"a": "1:30.5"}),
     ("a: [1, -2.5, true, null, x]", {"a": [1, -2.5, True, None, "x"]}), ("", None), ("'5'", "5")],
)  # fmt: skip
def test_plain_yaml_is_read_as_text_numbers_lists_and_mappings(text: str, value: Any) -> None:
    assert plain_yaml(text, what="x") == value


def test_json_numbers_that_are_none_are_null() -> None:
    assert plain_json("[NaN, Infinity, -Infinity, 1e999, 1e308]") == [None, None, None, None, 1e308]


def test_a_pipe_and_a_device_are_no_files_to_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(UserError, match="is no file"):
            text_of(tmp_path / name, most_bytes=100)


def test_a_file_above_its_bound_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(50_000_000_000)  # a hole: no disk is filled
    with pytest.raises(UserError, match="larger than 1,000 bytes"):
        text_of(tmp_path / "big", most_bytes=1_000)


def test_a_line_without_end_costs_that_line_only(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"1\n" + b"x" * 3_000_000 + b"\n2\n")
    assert list(lines_of(tmp_path / "a.jsonl")) == ["1\n", "?", "2\n"]


@pytest.mark.parametrize(
    "change",
    [{"name": 5}, {"name": []}, {"num_classes": "many"}, {"num_classes": 0}, {"mean": 3}, {"std": ["a", "b", "c"]},
     {"resize_to": -1}, {"kwargs": []}, {"kwargs": {"norm_layer": "os.system"}}, {"kwargs": {"pretrained": True}}],
    ids=str,
)  # fmt: skip
def test_a_student_folder_with_other_kinds_of_values_is_refused_in_words(change: dict[str, Any]) -> None:
    save_student("s", create_model("cifar:resnet8", num_classes=3, weights="none", kwargs={"width": 0.25}))
    config = json.loads(Path("s/config.json").read_text())
    config["understudy"] |= change
    Path("s/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        load_student("s")


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b'{"info": 3}', b'{"info": {"features": []}}', b"[" * 50_000, b"\xff"]
)
def test_parquet_metadata_that_says_nothing_useful_is_passed_over(metadata: bytes) -> None:
    labels = [0, 1] * 5
    table = pa.table({"image": [{"bytes": coloured_jpeg(label, 0)} for label in labels], "label": labels})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), "train.parquet")
    done("check", "--student", "cifar:resnet8", "--epochs", "1", "--data", "train.parquet", "--method", "alone")


@pytest.mark.parametrize("command", ["evaluate", "export", "report"])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("recipe.yaml", "data: 5\nstudent: x\nteacher: [1]"),
        ("recipe.yaml", "[" * 10_000),
        ("recipe.yaml", "a: &a [*a, *a]"),
        ("results.json", "[]"),
        ("results.json", "[" * 10_000),
        ("results.json", '{"schema": 1, "rows": [{}], "data": {}}'),
    ],
)
def test_a_run_folder_from_elsewhere_is_refused_in_words(tmp_path: Path, command: str, file: str, content: str) -> None:
    run = write_run(tmp_path / "x", rows=("alone",), seeds=(0,))
    (run / file).write_text(content)
    words = ["--onnx", "x.onnx"] if command == "export" else []
    said = understudy(command, run, *words)
    assert said.code == (0 if (command, file) == ("report", "recipe.yaml") else 2)  # the page shows a recipe as text
    assert "Traceback" not in said.err


def test_a_broken_run_beside_does_not_keep_a_new_one_from_beginning() -> None:
    for number, content in enumerate(["teacher: abc", "[1]", "1: {2: 3}", "a: " + "[" * 9_000], start=1):
        folder = Path(f"runs/digits-alone-{number}")
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(content)
        (folder / "environment.json").write_text("{}")
    done("train", *DIGITS_ALONE)
    assert Path("runs/digits-alone-5/results.json").exists()


def test_the_difference_to_a_recipe_of_strange_keys_is_shown() -> None:
    Path("x/checkpoints/y").mkdir(parents=True)
    Path("x/recipe.yaml").write_text("1: {2: 3}\nteacher: abc")
    Path("x/environment.json").write_text("{}")
    assert "unfinished run of another recipe" in refused("train", *DIGITS, *TEACHER, "--method", "kd", "--out", "x")


def test_accuracy_by_class_takes_memory_by_class_not_by_pair_of_classes() -> None:
    found = per_class_accuracy([3, 3, -1], [3, 999_999, 3], num_classes=1_000_000)
    assert found[3] == 50
    assert found[999_999] == 0
