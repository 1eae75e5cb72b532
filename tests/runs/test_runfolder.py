"""Which folder a run takes, and what it leaves alone."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.command_line import RECIPE
from understudy.recipes.schema import load_recipe
from understudy.runs.folder import RunFolder, open_run_folder
from understudy.runs.folder_choice import choose_run_folder
from understudy.utils.errors import UserError

ONE = {"epochs": 1, "update": {"name": "dot", "delta": 0.1}}
TWO = {"epochs": 2, "update": {"name": "dot", "delta": 0.2}}


def choose(
    recipe: dict[str, Any], out: Path | None = None, *, overwrite: bool = False, runs: Path = Path("runs")
) -> RunFolder:
    return choose_run_folder(recipe, out=out, name="pets-kd", overwrite=overwrite, runs=runs)


def finish(run: RunFolder) -> RunFolder:
    run.write_json(run.results_file, {"schema": 1})
    return run


def test_runs_are_numbered_from_one(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    names = [finish(choose(ONE, runs=runs)).path.name for _ in range(3)]
    assert names == ["pets-kd-1", "pets-kd-2", "pets-kd-3"]


def test_numbers_are_counted_as_numbers_and_other_names_do_not_count(tmp_path: Path) -> None:
    for name in ("pets-kd-9", "pets-kd-10", "pets-kd-dot-40", "pets-kd-x", "dogs-pets-kd-50"):
        (tmp_path / name).mkdir()
    assert choose(ONE, runs=tmp_path).path.name == "pets-kd-11"


def test_an_unfinished_run_of_the_same_recipe_is_continued(tmp_path: Path) -> None:
    first = choose(ONE, runs=tmp_path)
    finish(choose(TWO, runs=tmp_path))
    assert choose(ONE, runs=tmp_path).path == first.path


def test_an_unfinished_run_of_an_older_version_is_continued_where_later_settings_are_at_their_defaults(
    tmp_path: Path,
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml").as_dict()
    older = {key: value for key, value in recipe.items() if key != "class_weights"}
    older["data"] = {key: value for key, value in recipe["data"].items() if key != "sampling"}
    assert older != recipe
    runs = tmp_path / "runs"
    begun = choose(older, runs=runs)
    assert choose(recipe, runs=runs).path == begun.path
    assert choose({**recipe, "class_weights": "balanced"}, runs=runs).path != begun.path


def test_a_finished_run_is_never_taken_again(tmp_path: Path) -> None:
    finish(choose(ONE, runs=tmp_path))
    assert choose(ONE, runs=tmp_path).path.name == "pets-kd-2"


def test_an_unfinished_run_with_a_damaged_recipe_is_left_alone(tmp_path: Path) -> None:
    damaged = choose(ONE, runs=tmp_path)
    damaged.recipe_file.write_text("")
    assert choose(ONE, runs=tmp_path).path.name == "pets-kd-2"


def test_out_names_the_folder_and_makes_its_parents(tmp_path: Path) -> None:
    run = choose(ONE, tmp_path / "deep/er")
    assert run.recipe() == ONE
    assert not run.is_finished


def test_an_unfinished_run_in_out_goes_on(tmp_path: Path) -> None:
    first = choose(ONE, tmp_path / "x")
    (first.path / "metrics.jsonl").write_text("{}\n")
    assert choose(ONE, tmp_path / "x").metrics_file.read_text() == "{}\n"


def test_another_recipe_in_out_is_refused_with_the_difference(tmp_path: Path) -> None:
    begun = choose(ONE, tmp_path / "x")
    begun.checkpoints.mkdir()
    (begun.checkpoints / "seed0-000000000.pt").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        choose(TWO, tmp_path / "x")
    assert str(caught.value) == (
        f"{tmp_path / 'x'} holds an unfinished run of another recipe; take another --out, or --overwrite\n"
        "  epochs   here 2, there 1\n"
        "  update.delta   here 0.2, there 0.1"
    )


def test_a_finished_run_in_out_is_refused(tmp_path: Path) -> None:
    finish(choose(ONE, tmp_path / "x"))
    with pytest.raises(UserError, match="holds a finished run; take another --out, or --overwrite to replace it"):
        choose(ONE, tmp_path / "x")


def test_overwrite_replaces_what_the_run_left(tmp_path: Path) -> None:
    first = finish(choose(ONE, tmp_path / "x"))
    first.metrics_file.write_text("old")
    run = choose(TWO, tmp_path / "x", overwrite=True)
    assert (run.recipe(), run.metrics_file.exists(), run.is_finished) == (TWO, False, False)


def test_overwrite_follows_a_link_to_the_run(tmp_path: Path) -> None:
    real = finish(choose(ONE, tmp_path / "real")).path
    (tmp_path / "link").symlink_to(real)
    assert not choose(TWO, tmp_path / "link", overwrite=True).is_finished
    assert RunFolder(real).recipe() == TWO


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused_and_left_untouched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match="is not empty and holds no run; take another --out"):
        choose(ONE, tmp_path, overwrite=overwrite)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("photo.jpg", b"precious")]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_persons_folder_with_a_recipe_of_their_own_is_left_untouched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(UserError):
        choose(load_recipe(tmp_path / "recipe.yaml").as_dict(), tmp_path, overwrite=overwrite)
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"
    assert (tmp_path / "recipe.yaml").read_text() == RECIPE


def test_an_empty_folder_may_be_taken(tmp_path: Path) -> None:
    assert choose(ONE, tmp_path).path == tmp_path


def test_a_file_in_the_way_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write to the run folder .*x: File exists"):
        choose(ONE, tmp_path / "x")
    with pytest.raises(UserError, match=r"cannot write to the run folder .*y: Not a directory"):
        choose(ONE, tmp_path / "x/y")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_read_only_folder_is_said_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot write to the run folder .*: Permission denied"):
        choose(ONE, tmp_path / "x")


@pytest.mark.parametrize("name", ["gone", "photos"])
def test_a_folder_that_is_no_run_is_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=f"{name} is no run folder"):
        open_run_folder(tmp_path / name)


def test_results_of_an_unfinished_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no finished run \(no results.json\)"):
        choose(ONE, tmp_path / "x").results()


@pytest.mark.parametrize("content", ["{", "\xff", ""])
def test_damaged_results_are_refused_in_words(tmp_path: Path, content: str) -> None:
    run = choose(ONE, tmp_path / "x")
    run.results_file.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"results\.json"):
        run.results()


def test_numbers_that_json_lacks_are_written_as_null(tmp_path: Path) -> None:
    run = choose(ONE, tmp_path / "x")
    run.write_json(run.results_file, {"loss": math.nan, "list": [math.inf, 1.5], "name": "é"})
    assert json.loads(run.results_file.read_text(encoding="utf-8")) == {"loss": None, "list": [None, 1.5], "name": "é"}


def test_the_recipe_is_plain_yaml_in_its_own_order(tmp_path: Path) -> None:
    run = choose({"z": 1, "a": "Zürich"}, tmp_path / "x")
    assert run.recipe_file.read_text(encoding="utf-8") == "z: 1\na: Zürich\n"
    assert list(yaml.safe_load(run.recipe_file.read_text(encoding="utf-8"))) == ["z", "a"]


def test_a_measured_format_does_not_outlive_the_recipe_that_it_was_measured_for(tmp_path: Path) -> None:
    run = choose_run_folder({"student": "a", "log_every": 1}, out=tmp_path / "run", name="x", overwrite=False)
    run.memory_format_file.write_text("{}")
    choose_run_folder({"student": "a", "log_every": 2}, out=tmp_path / "run", name="x", overwrite=False)
    assert run.memory_format_file.exists()
    choose_run_folder({"student": "b", "log_every": 2}, out=tmp_path / "run", name="x", overwrite=False)
    assert not run.memory_format_file.exists()
