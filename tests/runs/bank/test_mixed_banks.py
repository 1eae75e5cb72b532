"""A bank under Mixup and CutMix: views are images with their partners, and what would part them is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.banked import files_of, losses_of, make, opened, small_recipe, with_bank
from helpers.displays import Heard
from understudy.data import train_loader
from understudy.recipes.schema import Recipe
from understudy.runs.bank import growing
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted

MIX = {"mixup": 0.8, "cutmix": 1.0}


def mixed_recipe(**over: Any) -> Recipe:
    data = {"mix": {**MIX, **over.pop("mix", {})}, **over.pop("data", {})}
    return small_recipe({"data": data, "epochs": 3, **over})


@pytest.mark.parametrize("mode", ["batch", "elem"])
@pytest.mark.parametrize("method", ["kd", "dist"])
def test_a_mixed_run_from_a_bank_is_the_live_one(method: str, mode: str, tmp_path: Path) -> None:
    recipe = mixed_recipe(method={"name": method}, mix={"mode": mode})
    make(recipe, tmp_path, views=3)
    live_gradients, live = losses_of(recipe, 9)
    gradients, banked = losses_of(with_bank(recipe, tmp_path), 9)
    assert all(torch.equal(gradient, live_gradients[name]) for name, gradient in gradients.items())
    assert banked == live


def test_the_teacher_saw_the_mixed_images_and_not_the_plain_ones(tmp_path: Path) -> None:
    recipe = mixed_recipe()
    make(recipe, tmp_path, views=1)
    components, _ = opened(with_bank(recipe, tmp_path))
    live, _ = opened(recipe)
    batch = next(iter(components.train_loader(0).epoch(1)))
    plain = next(iter(train_loader(live.data, small_recipe().data, seed=0, image_size=live.image_size).epoch(1)))
    assert torch.equal(batch.indices, plain.indices)
    assert not torch.allclose(batch.images, plain.images)
    found, wanted = components.teacher_of(0).observe(batch), live.teacher_of(0).observe(batch)
    torch.testing.assert_close(found.output, wanted.output)
    assert not torch.allclose(wanted.output, live.teacher_of(0).observe(plain).output)


def test_after_the_last_view_the_same_partners_come_again(tmp_path: Path) -> None:
    recipe = mixed_recipe()
    make(recipe, tmp_path, views=2)
    loader = opened(with_bank(recipe, tmp_path))[0].train_loader(0)
    first, second, third = ([*loader.epoch(epoch)] for epoch in (1, 2, 3))
    assert all(torch.equal(one.images, other.images) for one, other in zip(first, third, strict=True))
    assert not torch.equal(first[0].images, second[0].images)
    (last,) = loader.epoch(3, start_step=2)  # as a resumed run asks
    assert torch.equal(last.images, third[2].images)


def test_a_killed_bank_of_mixed_images_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = mixed_recipe()
    make(recipe, tmp_path / "whole", shard_samples=32)
    looks, look = [0], growing._teacher_rows

    def looks_once_more(*given: Any) -> Any:
        looks[0] += 1
        if looks[0] == 5:
            raise Interrupted(4, 2)
        return look(*given)

    with monkeypatch.context() as patch:
        patch.setattr(growing, "_teacher_rows", looks_once_more)
        with pytest.raises(Interrupted):
            make(recipe, tmp_path / "killed", shard_samples=32)
    make(recipe, tmp_path / "killed", shard_samples=32)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"data": {"batch_size": 16}}, r"mixed_in_batches_of   here 16, there 32"),
        ({"mix": {"mixup": 0.2}}, r"images\.mix\.mixup   here 0\.2, there 0\.8"),
        ({"data": {"mix": None}}, r"images\.mix"),
    ],
    ids=["other batches", "other shares", "not mixed"],
)
def test_a_run_whose_partners_are_others_is_refused(over: dict[str, Any], said: str, tmp_path: Path) -> None:
    make(mixed_recipe(), tmp_path, views=1)
    with pytest.raises(UserError, match=said):
        opened(with_bank(mixed_recipe(**over), tmp_path))


def test_several_processes_are_refused_since_each_would_mix_its_own_part(tmp_path: Path) -> None:
    components, _ = opened(mixed_recipe())
    given = {"seed": 0, "image_size": components.image_size, "num_views": 2}
    with pytest.raises(UserError, match="each of these 2 mixes its own part; train in one process"):
        train_loader(components.data, components.recipe.data, **given, rank=1, world_size=2)


def test_the_size_is_said_beforehand_with_what_is_mixed(tmp_path: Path) -> None:
    heard = Heard()
    make(mixed_recipe(), tmp_path, views=1, display=heard)
    assert any("80 images, each mixed with its partner in batches of 32, " in text for text in heard.said)
