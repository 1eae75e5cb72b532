"""Feature maps of both memory formats in one bank: every row comes back with the numbers that were stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.banked import furthest, losses_of, make, small_recipe, with_bank
from understudy.recipes.schema import Recipe
from understudy.teachers.bank.packing import BankLayout, joined_rows, packed, unpacked
from understudy.teachers.bank.view import BankView
from understudy.utils.errors import UserError

CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(
        torch.device("cuda"),
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
    ),
]


def maps(seed: int) -> torch.Tensor:
    return torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(seed))


def layout() -> BankLayout:
    known = {"dtype": "float32", "num_classes": 2, "taps": {"map": [3, 2, 5]}, "num_samples": 8}
    return BankLayout.read({**known, "batch_size": 4, "steps_per_shard": 1}, what="the test's layout")


def shard(number: int, form: torch.memory_format) -> dict[str, torch.Tensor]:
    """Samples 4 * number and up, their maps in a memory format."""
    rows = packed(torch.full((4, 2), float(number)), {"map": maps(number).to(memory_format=form)}, layout())
    places = {"indices": torch.arange(4, dtype=torch.int32) + 4 * number, "copies": torch.zeros(4, dtype=torch.uint8)}
    return {**places, **rows}


FORMS = [
    (torch.contiguous_format, torch.channels_last),
    (torch.channels_last, torch.contiguous_format),
    (torch.channels_last, torch.channels_last),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("forms", FORMS)
def test_shards_of_both_formats_are_read_each_by_its_own(
    forms: tuple[torch.memory_format, ...], device: torch.device
) -> None:
    view = BankView([shard(i, form) for i, form in enumerate(forms)], layout(), name="bank", device=device)
    asked = torch.tensor([6, 1, 3, 4])
    kept = view.select(asked, None, ["logits", "features.map", "last.map"])
    logits, features = unpacked(kept, layout(), ["map"])
    assert logits[:, 0].tolist() == [1, 0, 0, 1]
    assert torch.equal(features["map"].cpu(), torch.cat([maps(0), maps(1)])[asked])
    assert features["map"].is_contiguous(memory_format=forms[0])


@pytest.mark.parametrize("forms", FORMS)
def test_batches_of_both_formats_make_one_shard(forms: tuple[torch.memory_format, ...]) -> None:
    rows = joined_rows([shard(i, form) for i, form in enumerate(forms)])
    _, features = unpacked(rows, layout(), ["map"])
    assert torch.equal(features["map"], torch.cat([maps(0), maps(1)]))
    assert all(part.is_contiguous() for part in rows.values())


def test_a_shard_without_a_feature_is_refused_in_words() -> None:
    bare = {name: part for name, part in shard(1, torch.channels_last).items() if name != "last.map"}
    with pytest.raises(UserError, match="bank holds a shard that no bank has written"):
        BankView([shard(0, torch.channels_last), bare], layout(), name="bank", device=CPU)


@pytest.mark.parametrize("first", [True, False])
def test_a_shard_that_was_made_again_in_another_format_fits_the_others(first: bool, tmp_path: Path) -> None:
    recipe = small_recipe({"method": {"name": "at"}, "channels_last": first})
    other = Recipe.read({**recipe.as_dict(), "channels_last": not first}, what="the other format")
    options = {"feature_maps": True, "views": 1, "shard_samples": 32}
    (folder,) = make(recipe, tmp_path, **options)
    whole = losses_of(with_bank(recipe, tmp_path), 3)
    folder.shard_file(0, 1).unlink()
    make(other, tmp_path, **options)
    mixed = losses_of(with_bank(recipe, tmp_path), 3)
    assert furthest(mixed[0], whole[0]) <= 1e-5
    for here, there in zip(mixed[1], whole[1], strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-7)
