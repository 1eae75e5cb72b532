"""A bank under repeated augmentation: each row is a sample, a view and which of the repeats in a row it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.banked import files_of, losses_of, make, opened, small_recipe, with_bank
from helpers.displays import Eventful, Heard, press_ctrl_c
from helpers.engine import read_metrics, run_recipe
from helpers.images import write_tree
from helpers.masks import masks_folder
from understudy.core.batch import Batch
from understudy.recipes.schema import Recipe
from understudy.runs.components import open_components
from understudy.teachers.bank.packing import BankLayout
from understudy.teachers.bank.view import BankView
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted

SEGMENTER = {"model": "deeplabv3:mobilenetv3_small_050", "kwargs": {"width": 8}, "weights": "none"}
ORDERLY = {"crop": {}, "mixed": {"mix": {"mixup": 0.8, "cutmix": 1.0}}, "policy": {"augment_on": "device"}}


def repeated_recipe(**over: Any) -> Recipe:
    """80 digits, of which an epoch shows 27, three times each but the last one."""
    data = {"repeats": 3, **over.pop("data", {})}
    return small_recipe({"data": data, "epochs": 3, **over})


@pytest.mark.parametrize("data", [*ORDERLY.values(), {"augment": "resized_crop", "workers": 0}], ids=[*ORDERLY, "pil"])
def test_a_repeated_run_from_a_bank_is_the_live_one(data: dict[str, Any], tmp_path: Path) -> None:
    if "augment_on" in data:
        data = {**data, "augment": {"name": "resized_crop", "rand_augment": "rand-m9-mstd0.5-inc1"}}
    recipe = repeated_recipe(data=data, method={"name": "dist"})
    make(recipe, tmp_path, views=3)
    live_gradients, live = losses_of(recipe, 9)
    gradients, banked = losses_of(with_bank(recipe, tmp_path), 9)
    assert all(torch.equal(gradient, live_gradients[name]) for name, gradient in gradients.items())
    assert banked == live


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_live_metrics(tmp_path: Path) -> None:
    recipe = repeated_recipe(epochs=2)
    make(recipe, tmp_path / "bank")
    live = run_recipe(recipe, tmp_path / "live")
    with pytest.raises(Interrupted):
        run_recipe(with_bank(recipe, tmp_path / "bank"), tmp_path / "run", display=Eventful(1, 4, press_ctrl_c))
    again = run_recipe(with_bank(recipe, tmp_path / "bank"), tmp_path / "run")
    assert read_metrics(again) == read_metrics(live)


def test_each_row_is_what_the_teacher_said_of_that_repeat(tmp_path: Path) -> None:
    recipe = repeated_recipe()
    make(recipe, tmp_path, views=1)
    components, _ = opened(with_bank(recipe, tmp_path))
    live, _ = opened(recipe)
    batch = next(iter(components.train_loader(0).epoch(1)))
    assert batch.repeats is not None
    assert batch.repeats[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert batch.indices[0] == batch.indices[1]
    found, wanted = components.teacher_of(0).observe(batch), live.teacher_of(0).observe(batch)
    torch.testing.assert_close(found.output, wanted.output)
    assert not torch.allclose(found.output[0], found.output[1])


def test_a_bank_is_no_larger_than_one_without_repeats_and_says_what_it_holds(tmp_path: Path) -> None:
    heard = Heard()
    (folder,) = make(repeated_recipe(), tmp_path / "repeated", views=1, display=heard)
    (plain,) = make(small_recipe(), tmp_path / "plain", views=1)
    sizes = [sum(shard.num_bytes for shard in bank.manifest().shards.values()) for bank in (folder, plain)]
    assert sizes[0] == sizes[1]
    assert any("1 view of 80 images (27 samples, 3 times each), 45 bytes each" in text for text in heard.said)


def test_after_the_last_view_the_samples_of_the_first_come_again(tmp_path: Path) -> None:
    recipe = repeated_recipe()
    make(recipe, tmp_path, views=2)
    said: list[str] = []
    components = open_components(with_bank(recipe, tmp_path), allow_code=False, say=said.append)
    loader, bank = components.train_loader(0), components.teacher_of(0)
    assert bank is not None
    first, second, third = ([*loader.epoch(epoch)] for epoch in (1, 2, 3))
    assert all(torch.equal(one.images, other.images) for one, other in zip(first, third, strict=True))
    assert not torch.equal(first[0].indices, second[0].indices)
    assert all(bank.observe(batch).output.shape == (batch.num_images, 10) for batch in third)
    note = "2 views for 3 epochs: every 2 epochs the same augmented images, of about 56 % of the samples"
    assert any(note in text for text in said)


@pytest.mark.parametrize(
    ("banked", "run", "said"),
    [(3, 1, r"images\.repeats"), (1, 3, r"images\.repeats"), (3, 2, r"images\.repeats   here 2, there 3")],
)
def test_a_bank_of_other_repeats_is_refused(banked: int, run: int, said: str, tmp_path: Path) -> None:
    make(repeated_recipe(data={"repeats": banked}), tmp_path, views=1)
    with pytest.raises(UserError, match=said):
        opened(with_bank(repeated_recipe(data={"repeats": run}), tmp_path))


def test_other_batches_ask_for_the_same_rows(tmp_path: Path) -> None:
    make(repeated_recipe(), tmp_path)
    recipe = repeated_recipe(data={"batch_size": 20, "drop_last": True}, epochs=4, steps=8)
    assert losses_of(with_bank(recipe, tmp_path), 8)[1] == losses_of(recipe, 8)[1]


@pytest.mark.slow
def test_an_image_that_cannot_be_read_gives_way_as_it_did(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "images", {f"{split}/{name}": 5 for split in ("train", "val") for name in "ab"})
    for name in ("a/2.jpg", "b/3.jpg"):
        (tree / "train" / name).write_bytes(b"no image")
    data = {"root": str(tree), "train_rows": None, "val_rows": None, "cache": False, "workers": 0, "batch_size": 4}
    recipe = repeated_recipe(data={**data, "image_size": 16}, epochs=3)
    make(recipe, tmp_path / "bank", views=3)
    live = run_recipe(recipe, tmp_path / "live")
    banked = run_recipe(with_bank(recipe, tmp_path / "bank"), tmp_path / "banked")
    assert read_metrics(banked) == read_metrics(live)


@pytest.mark.slow
def test_windows_of_masks_are_repeated_alike(tmp_path: Path) -> None:
    data = {
        "root": str(masks_folder(tmp_path / "masks")),
        "batch_size": 4,
        "image_size": 32,
        "workers": 0,
        "repeats": 2,
    }
    settings = {"data": data, "teacher": {**SEGMENTER, "allow_weak": True}, "student": SEGMENTER, "epochs": 2}
    recipe = Recipe.read({**settings, "method": {"name": "kd"}, "threads": 1}, what="the test's recipe")
    make(recipe, tmp_path / "bank")
    assert losses_of(with_bank(recipe, tmp_path / "bank"), 3)[1] == losses_of(recipe, 3)[1]


def test_a_bank_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    recipe = repeated_recipe()
    make(recipe, tmp_path / "whole", shard_samples=32)
    with pytest.raises(Interrupted):
        make(recipe, tmp_path / "stopped", shard_samples=32, display=Eventful(1, 4, press_ctrl_c))
    make(recipe, tmp_path / "stopped", shard_samples=32)
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no CUDA device here"))])  # fmt: skip
def test_a_repeat_that_no_view_has_is_never_answered_by_another(device: str) -> None:
    known = {"dtype": "float32", "num_classes": 2, "num_samples": 5, "num_repeats": 2}
    layout = BankLayout.read({**known, "batch_size": 5, "steps_per_shard": 1}, what="the test's layout")
    shard = {
        "indices": torch.tensor([4, 4, 1, 1, 0], dtype=torch.int32),
        "copies": torch.tensor([0, 1, 0, 1, 0], dtype=torch.uint8),
        "logits": torch.arange(10.0).view(5, 2),
    }
    view = BankView([shard], layout, name="the bank", device=torch.device(device))
    found = view.select(torch.tensor([1, 4, 0]), torch.tensor([1, 0, 0]), ["logits"])["logits"]
    assert found[:, 0].tolist() == [6, 0, 8]
    absent = (torch.tensor([0]), torch.tensor([1]), ["logits"])
    if device == "cpu":
        with pytest.raises(UserError, match="the bank lacks image 0 of the training set"):
            view.select(*absent)
    else:
        assert view.select(*absent)["logits"].isnan().all()  # nothing is read back from a device; NaN stops a run


def test_repeats_travel_with_the_rows_of_a_batch() -> None:
    batch = Batch(torch.zeros(4, 3, 8, 8), torch.zeros(4), indices=torch.arange(4), repeats=torch.tensor([0, 1, 0, 1]))
    part = batch.to(torch.device("cpu")).select(slice(1, 3))
    assert part.draws is not None
    assert part.draws.tolist() == [1, 0]
    assert part.plain == slice(None)
