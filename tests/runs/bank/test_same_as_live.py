"""A run whose teacher is looked up equals the run whose teacher looks, as long as float32 was stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.banked import furthest, losses_of, make, small_recipe, with_bank
from helpers.engine import read_metrics, run_recipe
from helpers.smallest_settings import OF_ANY_IMAGES, SMALLEST, TEACHERS, own_networks, settings_of
from understudy.recipes.schema import Recipe
from understudy.utils.errors import UserError

STEPS = 20
# logits; relations; embedding; memory by index; the teacher's classifier; maps; its batch norms; rotated copies
EVERY_WAY = ["kd", "dist", "projector", "crd", "srrl", "at", "ofd", "sskd"]


def recipe_of(method: str, **over: Any) -> Recipe:
    networks = own_networks(method)
    settings = settings_of(method, "vit" if "teacher" in networks else "cnn")
    return small_recipe({"method": settings, "epochs": 7, "data": SMALLEST[method].data, **networks, **over})


def check(recipe: Recipe, folder: Path) -> None:
    # Banked in other batches than the run takes: nothing may hang on who stood beside an image.
    data = {**recipe.as_dict()["data"], "batch_size": 20}
    make(Recipe.read({**recipe.as_dict(), "data": data}, what="banked"), folder, views=7, feature_maps=True)
    live_gradients, live = losses_of(recipe, STEPS)
    gradients, banked = losses_of(with_bank(recipe, folder), STEPS)
    assert furthest(gradients, live_gradients) <= 1e-6
    assert len(live) == len(banked) == STEPS
    for here, there in zip(banked, live, strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("method", EVERY_WAY)
def test_first_gradients_and_twenty_losses_are_the_live_teachers(method: str, tmp_path: Path) -> None:
    check(recipe_of(method), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted({*OF_ANY_IMAGES} - {*EVERY_WAY}))
def test_so_they_are_with_every_other_method(method: str, tmp_path: Path) -> None:
    check(recipe_of(method), tmp_path)


def test_so_they_are_from_a_vision_transformer(tmp_path: Path) -> None:
    settings = recipe_of("at").as_dict()
    check(Recipe.read({**settings, "teacher": TEACHERS["vit"]}, what="from a ViT"), tmp_path)


@pytest.mark.parametrize(("option", "least", "most"), [({"dtype": "float16"}, 1e-6, 5e-3), ({"topk": 7}, 1e-3, 0.9)])
def test_narrower_banks_cost_something_but_little(
    option: dict[str, Any], least: float, most: float, tmp_path: Path
) -> None:
    recipe = recipe_of("kd")
    make(recipe, tmp_path, views=7, **option)
    gradients, _ = losses_of(with_bank(recipe, tmp_path), 1)
    assert least < furthest(gradients, losses_of(recipe, 1)[0]) < most


def test_pairs_of_views_are_found_by_their_copy(tmp_path: Path) -> None:
    recipe = small_recipe({"data": {"copies": "pairs"}})
    make(recipe, tmp_path, views=1)
    _, live = losses_of(recipe, 3)
    _, banked = losses_of(with_bank(recipe, tmp_path), 3)
    assert banked == live


def test_views_augmented_on_the_device_are_the_banked_ones_and_no_workers_are(tmp_path: Path) -> None:
    augment = {"name": "crop_flip", "rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.3, "erasing": 0.5}
    data = {"augment": augment, "augment_on": "device"}
    recipe = small_recipe({"data": data})
    make(small_recipe({"data": {**data, "batch_size": 20}}), tmp_path, views=1)
    _, live = losses_of(recipe, 3)
    _, banked = losses_of(with_bank(recipe, tmp_path), 3)
    for here, there in zip(banked, live, strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-7)
    by_workers = small_recipe({"data": {**data, "augment_on": "workers"}})
    with pytest.raises(UserError, match="augment_on   here None, there 'device'"):
        losses_of(with_bank(by_workers, tmp_path), 1)


def test_a_whole_comparison_writes_the_same_metrics_and_scores(tmp_path: Path) -> None:
    recipe = small_recipe({"rows": ["alone", "kd", "projector+dot"], "seeds": [0, 1], "epochs": 2})
    live = run_recipe(recipe, tmp_path / "live")
    make(recipe, tmp_path / "bank")
    banked = run_recipe(with_bank(recipe, tmp_path / "bank"), tmp_path / "banked")
    assert read_metrics(banked) == read_metrics(live)
    assert {**banked.results(), "name": ""} == {**live.results(), "name": ""}
    ours, theirs = (load_file(run.predictions_file) for run in (banked, live))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    missing = theirs.keys() - ours.keys()  # a bank keeps what the teacher says of these images, not how surely
    assert {name.split("/")[0] for name in missing} == {"kl", "confidence", "label_probability"}
    assert {name.split("/")[2] for name in missing if not name.startswith("kl/")} == {"teacher"}


@pytest.mark.parametrize("where", ["workers", "device"])
def test_a_weak_and_a_strong_view_are_the_banked_ones_and_no_other_pairs_are(where: str, tmp_path: Path) -> None:
    weak: dict[str, Any] = {"name": "crop_flip", "pad": 1}
    data = {"copies": "pairs", "augment": weak, "augment_on": where, "workers": 0}
    strong = {"second_augment": {**weak, "rand_augment": "rand-m9"}}
    recipe = small_recipe({"method": {"name": "mlld"}, "data": {**data, **strong}})
    make(recipe, tmp_path, views=1)
    live, banked = (losses_of(one, 3)[1] for one in (recipe, with_bank(recipe, tmp_path)))
    for here, there in zip(banked, live, strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-7)
    plain = small_recipe({"method": {"name": "mlld"}, "data": data})
    with pytest.raises(UserError, match=r"second_augment   here None, there \{"):
        losses_of(with_bank(plain, tmp_path), 1)


def test_augmentation_repeats_after_the_last_view(tmp_path: Path) -> None:
    recipe = small_recipe({"epochs": 3, "data": {"batch_size": 80}, "update": {"name": "joint", "lr": 1e-12}})
    make(recipe, tmp_path, views=1)
    # A student that does not move: what is measured of it is a function of the images alone.
    _, (first, second, _) = losses_of(with_bank(recipe, tmp_path), 3)
    assert first["kl_to_teacher"] == pytest.approx(second["kl_to_teacher"], rel=1e-5)
    _, (first, second, _) = losses_of(recipe, 3)
    assert first["kl_to_teacher"] != pytest.approx(second["kl_to_teacher"], rel=1e-5)
