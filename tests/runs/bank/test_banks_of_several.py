"""Banks of several teachers, each for a head of its own: made and read together, and a bank by itself each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.banked import files_of, losses_of, make, opened, small_recipe, with_bank
from helpers.displays import Heard
from helpers.engine import read_metrics, run_recipe
from helpers.two_teachers import BOTH, TWO, VIT
from understudy.models import create_model
from understudy.recipes.schema import Recipe, merged
from understudy.runs.bank import growing
from understudy.runs.bank.open import with_banked_teacher
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted


def recipe_of(over: dict[str, Any] | None = None) -> Recipe:
    return small_recipe(merged(TWO, over or {}))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of the second teacher, so that it is the same network alone as beside another."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "vit.pt"
    network = create_model(VIT["model"], num_classes=10, weights="none", kwargs=VIT["kwargs"], image_size=8)
    torch.save(network.module.state_dict(), file)
    return str(file)


def test_a_run_from_mixed_banks_of_two_teachers_is_the_live_one(tmp_path: Path) -> None:
    recipe = recipe_of({"data": {"mix": {"mixup": 0.8, "cutmix": 1.0}}, "epochs": 2})
    make(recipe, tmp_path)
    live_gradients, live = losses_of(recipe, 6)
    gradients, banked = losses_of(with_bank(recipe, tmp_path), 6)
    assert all(torch.equal(gradient, live_gradients[name]) for name, gradient in gradients.items())
    assert banked == live


@pytest.mark.parametrize(
    "method",
    [
        [{"name": "deit", "on": {"distilled": 0.5, "distilled2": 0.5}}],
        [{"name": "projector"}, {"name": "kd", "on": BOTH}],
        [{"name": "at"}, {"name": "co_advise"}],
    ],
    ids=["deit", "an embedding of the first", "maps of the first, co_advise"],
)
def test_so_it_is_under_other_methods(method: list[dict[str, Any]], tmp_path: Path) -> None:
    recipe = recipe_of({"method": method})
    make(recipe, tmp_path, views=1, feature_maps=True)
    live_gradients, live = losses_of(recipe, 3)
    gradients, banked = losses_of(with_bank(recipe, tmp_path), 3)
    assert all(torch.equal(gradient, live_gradients[name]) for name, gradient in gradients.items())
    assert banked == live


def test_float16_costs_what_it_costs_of_one_teacher(tmp_path: Path) -> None:
    recipe = recipe_of()
    make(recipe, tmp_path, views=1, dtype="float16")
    (live,), (banked,) = losses_of(recipe, 1)[1], losses_of(with_bank(recipe, tmp_path), 1)[1]
    assert banked != live
    assert banked == pytest.approx(live, rel=1e-3)


def test_together_they_are_the_banks_of_each_alone_byte_for_byte(weights: str, tmp_path: Path) -> None:
    second = {**VIT, "weights": weights}
    together = recipe_of({"teacher": {"also": {"distilled2": second}}})
    heard = Heard()
    make(together, tmp_path / "both", display=heard)
    make(small_recipe(), tmp_path / "first")
    make(
        Recipe.read({**small_recipe().as_dict(), "teacher": {**second, "allow_weak": True}}, what=""), tmp_path / "two"
    )
    both, first, two = (files_of(tmp_path / name) for name in ("both", "first", "two"))
    assert both == first | {f"also/distilled2/{name}": content for name, content in two.items()}
    sizes = [text for text in heard.said if text.startswith("bank ")]
    assert [text.split(":")[0].rpartition("/")[2] for text in sizes] == ["both", "distilled2", "bank     2 teachers"]


def test_a_bank_of_the_first_teacher_is_kept_where_a_second_comes(weights: str, tmp_path: Path) -> None:
    together = recipe_of({"teacher": {"also": {"distilled2": {**VIT, "weights": weights}}}})
    make(small_recipe(), tmp_path / "added")
    with pytest.raises(
        UserError, match=r"holds none of the teacher of distilled2 \(no also/distilled2/seed0/bank.json"
    ):
        opened(with_bank(together, tmp_path / "added"))
    before = files_of(tmp_path / "added")
    heard = Heard()
    make(together, tmp_path / "added", display=heard)
    assert any("bank of seed 0 is complete" in text for text in heard.said)
    after = files_of(tmp_path / "added")
    assert {name: after[name] for name in before} == before
    assert losses_of(with_bank(together, tmp_path / "added"), 2)[1] == losses_of(together, 2)[1]


def test_killed_banks_of_two_go_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of()
    make(recipe, tmp_path / "whole", shard_samples=32)
    looks, look = [0], growing._teacher_rows

    def looks_once_more(*given: Any) -> Any:
        looks[0] += 1
        if looks[0] == 8:  # the second teacher's look at the fourth batch
            raise Interrupted(3, 2)
        return look(*given)

    with monkeypatch.context() as patch:
        patch.setattr(growing, "_teacher_rows", looks_once_more)
        with pytest.raises(Interrupted):
            make(recipe, tmp_path / "killed", shard_samples=32)
    with pytest.raises(UserError, match="is incomplete: 3 of 6 shards"):
        opened(with_bank(recipe, tmp_path / "killed"))
    lost = tmp_path / "killed/also/distilled2/seed0/view0000/shard00001.safetensors"
    lost.unlink()
    make(recipe, tmp_path / "killed", shard_samples=32)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (
            {"teacher": {"also": {"distilled2": {"kwargs": {"depth": 2}}}}},
            r"also/distilled2/seed0 is of something else",
        ),
        ({"teacher": {"kwargs": {"width": 0.25}}}, r"seed0 is of something else .*teacher\.kwargs\.width   here 0\.25"),
        ({"seeds": [0, 1]}, r"holds seed 0, but this run also has seed 1"),
        ({"epochs": 3, "bank": {"views": "unique"}}, r"bank\.views: unique, but bank .* has 2 views for 3 epochs"),
        ({"bank": {"key": "0123+4567"}}, r"has another content than this recipe was run with .*there '0123\+4567'"),
    ],
    ids=["another second", "another first", "another seed", "too few views", "another content"],
)
def test_banks_of_something_else_are_refused(over: dict[str, Any], said: str, two_banks: Path) -> None:
    recipe = recipe_of()
    wanted = merged({**recipe.as_dict(), "bank": {"path": str(two_banks)}}, over)
    with pytest.raises(UserError, match=f"(?s){said}"):
        opened(Recipe.read(wanted, what="the banked recipe"))


@pytest.fixture(scope="module")
def two_banks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two")
    make(recipe_of(), out)
    return out


def test_a_bank_knows_both_teachers_where_none_is_named(two_banks: Path) -> None:
    told = with_banked_teacher({"bank": {"path": str(two_banks)}})["teacher"]
    assert (told["model"], told["also"]["distilled2"]["model"]) == ("cifar:resnet8", "timm:vit_tiny_patch16_224")
    named = {"bank": {"path": str(two_banks)}, "teacher": {"model": "cifar:resnet8"}}
    assert "also" not in with_banked_teacher(named)["teacher"]


@pytest.mark.slow
def test_a_whole_run_from_banks_of_two_writes_the_same_metrics_and_scores(two_banks: Path, tmp_path: Path) -> None:
    recipe = recipe_of({"epochs": 2})
    live = run_recipe(recipe, tmp_path / "live")
    banked = run_recipe(with_bank(recipe, two_banks), tmp_path / "banked")
    assert read_metrics(banked) == read_metrics(live)
    assert {**banked.results(), "name": ""} == {**live.results(), "name": ""}
    assert [one["head"] for one in banked.results()["teacher"]["also"]] == ["distilled2"]
