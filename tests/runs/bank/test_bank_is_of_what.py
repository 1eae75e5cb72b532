"""What a bank is of: weights, images and versions, told by their content and not by their names."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.banked import files_of, make, opened, small_recipe, teacher_file, with_bank
from helpers.displays import Heard
from helpers.images import coloured_jpeg, write_parquet, write_tree
from understudy.recipes.schema import Recipe, merged
from understudy.runs.components import open_components
from understudy.utils.errors import UserError

TREE_ROWS = {"train_rows": None, "val_rows": None, "workers": 0, "batch_size": 16, "image_size": 24}


def of_weights(weights: Path | str) -> Recipe:
    return small_recipe({"teacher": {"weights": str(weights)}})


def notes_of(recipe: Recipe) -> list[str]:
    said: list[str] = []
    open_components(recipe, allow_code=False, say=said.append)
    return said


def put_others(file: Path, *, older_than: Path) -> None:
    """Other weights in `file`, dated before another file, as `cp -p` may leave them."""
    teacher_file(file, seed=6)
    then = older_than.stat().st_mtime - 60
    os.utime(file, (then, then))


def test_other_weights_under_the_same_name_are_refused_however_old(tmp_path: Path) -> None:
    recipe = of_weights(teacher_file(tmp_path / "teacher.pt"))
    (folder,) = make(recipe, tmp_path / "bank", views=1)
    put_others(tmp_path / "teacher.pt", older_than=folder.manifest_file)
    with pytest.raises(UserError, match=r"(?s)weights   here 'SHA-256 \w{16}', there 'SHA-256 \w{16}'.*put back"):
        opened(with_bank(recipe, tmp_path / "bank"))
    before = files_of(tmp_path / "bank")
    with pytest.raises(UserError, match=r"holds a bank of something else.*\n  teacher\.weights   here 'SHA-256"):
        make(recipe, tmp_path / "bank", views=2)
    assert files_of(tmp_path / "bank") == before


def test_a_relative_name_means_the_weights_of_the_folder_that_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, project in enumerate(("one", "other")):
        (tmp_path / project).mkdir()
        teacher_file(tmp_path / project / "teacher.pt", seed=seed)
    monkeypatch.chdir(tmp_path / "one")
    make(of_weights("teacher.pt"), tmp_path / "bank", views=1)
    opened(with_bank(of_weights("teacher.pt"), tmp_path / "bank"))
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(UserError, match=r"teacher\.weights   here 'SHA-256"):
        opened(with_bank(of_weights("teacher.pt"), tmp_path / "bank"))


def test_the_same_weights_may_be_named_otherwise_and_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = teacher_file(tmp_path / "teacher.pt")
    make(of_weights("teacher.pt"), tmp_path / "bank", views=1)
    (tmp_path / "elsewhere").mkdir()
    for named in (weights, "./teacher.pt", shutil.copy(weights, tmp_path / "elsewhere/best.pt")):
        opened(with_bank(of_weights(named), tmp_path / "bank"))
    make(of_weights(weights), tmp_path / "bank", views=2)
    make(merged_with(of_weights(weights), {"seeds": [1]}), tmp_path / "bank", views=2)
    parts, _ = opened(with_bank(merged_with(of_weights(weights), {"seeds": [0, 1]}), tmp_path / "bank"))
    assert [bank and bank.num_views for bank in map(parts.teacher_of, (0, 1))] == [2, 2]


def test_weights_that_are_gone_are_known_by_their_name(tmp_path: Path) -> None:
    weights = teacher_file(tmp_path / "teacher.pt")
    make(of_weights(weights), tmp_path / "bank", views=1)
    weights.unlink()
    opened(with_bank(of_weights(weights), tmp_path / "bank"))
    with pytest.raises(UserError, match=r"teacher\.weights   here '.*gone\.pt', there '.*teacher\.pt'"):
        opened(with_bank(of_weights(tmp_path / "gone.pt"), tmp_path / "bank"))


def test_a_folder_of_weights_is_known_by_the_file_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    weights = teacher_file(folder / "pytorch_model.bin")
    make(of_weights(folder), tmp_path / "bank", views=1)
    opened(with_bank(of_weights(weights), tmp_path / "bank"))
    teacher_file(weights, seed=6)
    with pytest.raises(UserError, match=r"teacher\.weights   here 'SHA-256"):
        opened(with_bank(of_weights(folder), tmp_path / "bank"))


def test_a_seed_of_another_teacher_is_not_put_beside_those_that_are_there(tmp_path: Path) -> None:
    weights = teacher_file(tmp_path / "teacher.pt")
    make(of_weights(weights), tmp_path / "bank", views=1)
    teacher_file(weights, seed=6)
    with pytest.raises(UserError, match=r"seed0 holds a bank of something else.*\n  teacher\.weights   here 'SHA-256"):
        make(merged_with(of_weights(weights), {"seeds": [1]}), tmp_path / "bank", views=1)
    assert not (tmp_path / "bank/seed1").exists()


def merged_with(recipe: Recipe, over: dict[str, Any]) -> Recipe:
    return Recipe.read(merged(recipe.as_dict(), over), what="the test's recipe")


def of_images(kind: str, folder: Path) -> Recipe:
    """40 images to train on, of which a look at 16 sees 0, 2, 5 and so on."""
    if kind == "table":
        write_parquet(folder / "train.parquet", [0, 1] * 20)
        write_parquet(folder / "val.parquet", [0, 1] * 3)
    else:
        write_tree(folder, {f"train/{name}": 20 for name in "ab"} | {f"val/{name}": 6 for name in "ab"})
    return small_recipe({"data": {**TREE_ROWS, "root": str(folder), "cache": kind == "decoded"}})


def put_another_image(kind: str, folder: Path) -> None:
    if kind == "table":
        rows = pq.read_table(folder / "train.parquet").to_pylist()
        rows[1]["image"]["bytes"] = coloured_jpeg(1, 78)
        pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    else:
        (folder / "train/a/1.jpg").write_bytes(coloured_jpeg(0, 77))


@pytest.mark.parametrize(("kind", "said"), [("decoded", "pixels"), ("files", "files"), ("table", "files")])
def test_one_image_that_was_replaced_makes_another_data_set(kind: str, said: str, tmp_path: Path) -> None:
    recipe = of_images(kind, tmp_path / "images")
    make(recipe, tmp_path / "bank", views=1)
    opened(with_bank(recipe, tmp_path / "bank"))
    put_another_image(kind, tmp_path / "images")
    with pytest.raises(UserError, match=rf"data\.train\.all_{said}   here '\w+', there '\w+'$"):
        opened(with_bank(recipe, tmp_path / "bank"))
    with pytest.raises(UserError, match=rf"data\.train\.all_{said}   here"):
        make(recipe, tmp_path / "bank", views=2)


def test_images_may_lie_decoded_at_one_time_and_as_files_at_another(tmp_path: Path) -> None:
    tree = write_tree(
        tmp_path / "images", {f"{split}/{name}": 6 for split in ("train", "val") for name in "ab"}, (72, 72)
    )
    recipes = [small_recipe({"data": {**TREE_ROWS, "root": str(tree), "cache": cache}}) for cache in (True, False)]
    make(recipes[0], tmp_path / "bank", views=1)
    opened(with_bank(recipes[1], tmp_path / "bank"))


def test_a_bank_that_notes_less_is_compared_by_what_it_notes(tmp_path: Path) -> None:
    weights = teacher_file(tmp_path / "teacher.pt")
    (folder,) = make(of_weights(weights), tmp_path / "bank", views=1)
    told = json.loads(folder.manifest_file.read_text())
    del told["versions"], told["key"]["teacher"]["sha256"]
    for split in ("train", "val"):
        del told["key"]["data"][split]["all_pixels"]
    folder.manifest_file.write_text(json.dumps(told))
    assert not any("warning" in text for text in notes_of(with_bank(of_weights(weights), tmp_path / "bank")))
    make(of_weights(weights), tmp_path / "bank", views=2)


def test_a_bank_that_other_versions_made_is_warned_of(tmp_path: Path) -> None:
    (folder,) = make(small_recipe(), tmp_path, views=1)
    told = json.loads(folder.manifest_file.read_text())
    assert sorted(told["versions"]) == ["timm", "torch", "torchvision", "understudy"]
    assert not any("warning" in text for text in notes_of(with_bank(small_recipe(), tmp_path)))
    here = told["versions"]["torchvision"]
    told["versions"]["torchvision"] = "0.1.2"
    folder.manifest_file.write_text(json.dumps(told))
    said = f"was made with torchvision 0.1.2 (here {here})"
    assert [said in text for text in notes_of(with_bank(small_recipe(), tmp_path)) if "warning" in text] == [True]
    display = Heard()
    make(small_recipe(), tmp_path, views=2, display=display)
    assert any(said in text for text in display.said if text.startswith("warning"))
