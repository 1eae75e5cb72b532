"""What a recipe names and is not there: said at once, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.engine import tiny_recipe
from understudy import UserError
from understudy.recipes.loading import recipe_names
from understudy.recipes.schema import load_recipe
from understudy.runs.absent_files import refuse_absent_files
from understudy.runs.first_steps import first_steps


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_shipped_recipe_says_all_that_it_lacks_and_how_to_have_it() -> None:
    recipe = load_recipe("cifar100/dist/resnet32x4-resnet8x4", ["data.root=nowhere"])
    with pytest.raises(UserError) as caught:
        refuse_absent_files(recipe)
    first, data, teacher, *_ = str(caught.value).split("\n")
    assert first == "this recipe needs 2 things that are not here:"
    assert data.strip() == (
        "data.root: there is nothing at nowhere; set data.root=FOLDER (--data FOLDER) to where these images are"
    )
    assert teacher.strip().startswith("teacher weights 'weights/resnet32x4.safetensors': there is no such file")
    assert "docs/teachers.md says which public checkpoint it is: set teacher.weights=FILE" in teacher
    assert teacher.endswith("or train one first with teacher.weights=none teacher.train_epochs=240")


def test_the_commands_and_the_layout_follow_what_a_shipped_recipe_lacks() -> None:
    with pytest.raises(UserError) as caught:
        refuse_absent_files(load_recipe("cifar100/dist/resnet32x4-resnet8x4"))
    said = str(caught.value)
    assert "FOLDER/cifar-100-python" in said
    assert "understudy train cifar100/teachers/resnet32x4 data.root=FOLDER --out runs/teachers/resnet32x4\n" in said
    assert "--teacher-weights runs/teachers/resnet32x4\n" in said
    assert said.count("\n  understudy train cifar100/dist/resnet32x4-resnet8x4 data.root=FOLDER ") == 3


def test_one_lack_is_told_with_the_commands_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs 1 thing that is not here") as caught:
        refuse_absent_files(load_recipe("cifar100/dist/resnet32x4-resnet8x4", [f"data.root={tmp_path}"]))
    assert "teacher.weights=none teacher.train_epochs=240" in str(caught.value)


def test_every_teacher_recipe_that_is_named_trains_the_teacher_of_the_recipe() -> None:
    named = 0
    for name in [each for each in recipe_names() if "/kd/" in each]:
        recipe = load_recipe(name)
        for line in first_steps(recipe):
            words = line.split()
            if "/teachers/" in line and "--out" in words:
                assert recipe.teacher is not None
                assert load_recipe(words[2]).student.model == recipe.teacher.model
                named += 1
    assert named > 10


def test_the_way_out_that_it_names_lacks_nothing_more(tmp_path: Path) -> None:
    over = [f"data.root={tmp_path}", "teacher.weights=none", "teacher.train_epochs=240"]
    refuse_absent_files(load_recipe("cifar100/dist/resnet32x4-resnet8x4", over))


def test_a_persons_own_files_are_named_without_advice_on_published_ones() -> None:
    with pytest.raises(UserError) as caught:
        refuse_absent_files(
            tiny_recipe(
                {"teacher": {"weights": "mine.pth"}, "student": {"model": "cifar:resnet8", "weights": "start.pth"}}
            )
        )
    assert str(caught.value).count("there is no such file") == 2
    assert "docs/teachers.md" not in str(caught.value)


def test_data_that_need_no_folder_lack_none() -> None:
    refuse_absent_files(tiny_recipe())
    refuse_absent_files(tiny_recipe({"data": {"root": "hf:owner/name"}}))
