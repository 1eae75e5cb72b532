"""What was published stands beside a run only where nothing but place, machine and repetition is otherwise."""

from pathlib import Path

import pytest
import yaml

from understudy.recipes.comparison import rows_of
from understudy.recipes.loading import read_recipes
from understudy.recipes.origin import Changed
from understudy.recipes.schema import Recipe, load_recipe, recipe_from

KD = "cifar100/kd/resnet32x4-resnet8x4"


def changed(recipe: Recipe) -> list[str]:
    return [one.key for one in recipe.origin.changed]


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/there", "data.workers=3", "device=cpu", "threads=1", "precision=bfloat16", "seeds=3",
        "log_every=7", "checkpoint_minutes=5", "checkpoint_steps=100", "teacher.weights=mine.safetensors",
        "update.lr=0.05", "method.temperature=4", "teacher.allow_weak=true",
    ],
)  # fmt: skip
def test_what_was_published_stays_where_only_place_machine_and_repetition_change(override: str) -> None:
    found = load_recipe(KD, [override])
    assert found.published[0].scores["top1"] == 73.33
    assert changed(found) == []


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("update.lr=0.01", "update.lr"), ("method.temperature=1", "method.temperature"), ("epochs=3", "epochs"),
        ("student.model=cifar:resnet8", "student.model"), ("teacher.model=cifar:resnet20", "teacher.model"),
        ("data.fraction=0.2", "data.fraction"), ("task_weight=0.2", "task_weight"), ("ema=0.9", "ema"),
        ("data.train_rows='0:100'", "data.train_rows"), ("label_smoothing=0.1", "label_smoothing"),
        ("student.kwargs={width: 0.5}", "student.kwargs.width"), ("update.name=dot", "update.name"),
        ("accumulate=2", "accumulate"), ("select_on=test", "select_on"),
    ],
)  # fmt: skip
def test_what_was_published_goes_with_any_other_setting_and_the_change_is_named(override: str, key: str) -> None:
    found = load_recipe(KD, [override])
    assert found.published == ()
    assert key in changed(found)


def test_a_change_is_told_with_both_values() -> None:
    found = load_recipe("cifar100/kd-dot/resnet32x4-resnet8x4", ["update.delta=-0.09"])
    assert found.origin.changed == (Changed("update.delta", 0.075, -0.09),)
    assert found.origin.recipe == "classification/cifar100/kd-dot/resnet32x4-resnet8x4"


def test_a_strategy_is_a_change_too() -> None:
    found = recipe_from(read_recipes([KD, "strategies/dot-cifar100"]))
    assert {"update.name", "update.delta"} <= set(changed(found))
    assert found.published == ()


def test_an_own_recipe_on_a_shipped_one_drops_its_number_unless_it_has_its_own(tmp_path: Path) -> None:
    settings = {"extends": KD, "method": {"temperature": 2}}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(settings))
    assert load_recipe(file).published == ()
    assert changed(load_recipe(file)) == ["method.temperature"]
    file.write_text(yaml.safe_dump(settings | {"published": {"top1": 70, "source": "a table of ours"}}))
    assert load_recipe(file).published[0].scores["top1"] == 70
    assert load_recipe(file, ["seeds=3"]).published[0].scores["top1"] == 70
    assert load_recipe(file, ["epochs=3"]).published == ()
    file.write_text(yaml.safe_dump({"extends": KD, "data": {"root": "/there"}}))
    assert load_recipe(file).published[0].scores["top1"] == 73.33


def test_the_way_to_the_same_settings_makes_no_other_recipe() -> None:
    assert load_recipe(KD, ["epochs=3"]) == load_recipe(KD, ["epochs=4", "epochs=3"])


def test_a_comparison_shows_what_was_published_by_row() -> None:
    recipe = load_recipe(KD, ["rows=[alone, kd, kd+dot]"])
    assert [row.published[0].scores["top1"] for row in rows_of(recipe)] == [72.5, 73.33, 75.12]
    assert not [row for row in rows_of(load_recipe(KD, ["rows=[alone, kd, kd+dot]", "epochs=3"])) if row.published]
