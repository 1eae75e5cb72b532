"""`understudy settings`, docs/settings.md, and what is said of a key that there is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from helpers.command_line import RECIPE, done, refused
from understudy.cli.field_comments import field_comments
from understudy.cli.options import SETTINGS
from understudy.cli.settings_pages import meaning_of, settings_page
from understudy.data import DataConfig
from understudy.recipes.keys import keys_of
from understudy.recipes.schema import Recipe, recipe_from
from understudy.utils.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
BASE = yaml.safe_load(RECIPE)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run `make docs`"


def test_every_key_of_a_resolved_recipe_is_listed() -> None:
    def paths(settings: dict[str, object], prefix: str = "") -> set[str]:
        found: set[str] = set()
        for key, value in settings.items():
            is_group = isinstance(value, dict) and key != "kwargs"
            found |= paths(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}"}
        return found

    resolved = recipe_from(BASE, ["ema=0.9", "data.mix={mixup: 0.8}", "update=dot", "data.augment=crop_flip"])
    assert paths(resolved.as_dict()) <= {key.path for key in keys_of(Recipe)}


def test_every_key_says_what_it_means_and_every_option_sets_one_of_them() -> None:
    keys = keys_of(Recipe)
    groups = {"data", "teacher", "student", "bank", "schedule"}
    assert [key.path for key in keys if not meaning_of(key) and key.path not in groups] == []
    assert set(SETTINGS.values()) <= {key.path for key in keys}


def test_a_word_finds_keys_by_name_by_option_and_else_by_meaning() -> None:
    found = done("settings", "lr")
    assert "update.lr = 0.05   number, above 0   --lr\n    with SGD and 64 images per step" in found
    assert "teacher.lr = null" in found
    assert "data.batch_size = 64   whole number, at least 1, at most 1,000,000" in done("settings", "batch-size")
    assert "schedule.warmup_epochs" in done("settings", "warmup")
    assert "method.temperature" in done("settings", "temperature")
    assert "data.mix" in done("settings", "cutmix")
    assert "on_nan = stop   stop | rollback | continue" in done("settings", "infinite")
    assert "update.delta = 0.075   number" in done("settings", "update", "delta")
    assert "update.delta = 0.075   number\n    CIFAR-100; 0.09 for ImageNet (dot, dot_weights only)" in done(
        "settings", "delta"
    )
    assert "(deepkd, dot only)" in done("settings", "update.delta")


def test_all_of_them_are_listed_without_a_word() -> None:
    said = done("settings")
    assert said.count("\n") > 200
    assert "threads = null   whole number | null, at least 1, at most 1,024   --threads" in said


def test_a_word_that_finds_nothing_is_refused_with_the_nearest() -> None:
    assert "setting 'batchsize' is unknown; did you mean batch_size?" in refused("settings", "batchsize")
    assert "`understudy settings` lists them all" in refused("settings", "qqqqq")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=0.1", "lr unknown; did you mean update.lr?"),
        ("batch_size=3", "batch_size unknown; did you mean data.batch_size?"),
        ("workers=3", "did you mean data.workers?"),
        ("weights=none", "did you mean teacher.weights or student.weights?"),
        ("temperature=3", "did you mean method.temperature?"),
        ("delta=0.1", "did you mean update.delta?"),
        ("data.lr=1", "data.lr unknown; did you mean update.lr?"),
        ("update.batch_size=1", "update.batch_size unknown; did you mean data.batch_size?"),
        ("method.lr=1", "method.lr unknown; did you mean update.lr?"),
        ("batchsize=3", "did you mean data.batch_size?"),
        ("epoch=3", "did you mean epochs?"),
        ("data.batchsize=3", "did you mean batch_size?"),
        ("num_workers=3", "did you mean data.workers?"),
    ],
)
def test_a_key_at_the_wrong_place_is_sent_to_the_right_one(override: str, meant: str) -> None:
    with pytest.raises(UserError) as refusal:
        recipe_from(BASE, [override])
    assert meant in " ".join(str(refusal.value).split())


def test_a_comment_is_read_beside_its_field_on_one_line_or_several() -> None:
    words = field_comments(DataConfig)
    assert words["batch_size"] == "images a step, over all processes"
    assert words["grey_range"].startswith("values that become black and white")
    assert "root" in words
