"""What a bank keeps of a row: all of it in float32, less in float16 and top-k, and never a wrong number in silence."""

import math

import pytest
import torch
from torch import Tensor

from understudy.teachers.bank.class_rows import ClassRows, restored_logits
from understudy.teachers.bank.packing import BankLayout, packed, unpacked
from understudy.teachers.bank.view import BankView
from understudy.utils.errors import UserError


def layout(**over: object) -> BankLayout:
    settings = {"dtype": "float32", "num_classes": 5, "num_samples": 10, "batch_size": 4, "steps_per_shard": 2}
    return BankLayout.read({**settings, **over}, what="the test's layout")


def logits(rows: int = 3, classes: int = 5) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)) * 3


def test_float32_rows_come_back_bit_for_bit_in_their_own_memory_format() -> None:
    maps = torch.randn(3, 4, 2, 2)
    features = {"embedding": torch.randn(3, 7), "plain": maps, "last": maps.to(memory_format=torch.channels_last)}
    found, seen = unpacked(packed(logits(), features, layout()), layout(), features)
    assert torch.equal(found, logits())
    for name, feature in features.items():
        assert torch.equal(seen[name], feature)
        assert seen[name].stride() == feature.stride()


def test_float16_rows_come_back_as_float32_within_float16s_rounding() -> None:
    half = layout(dtype="float16")
    found, _ = unpacked(packed(logits(), {}, half), half, [])
    assert found.dtype == torch.float32
    assert not torch.equal(found, logits())
    torch.testing.assert_close(found, logits(), rtol=2**-11, atol=0)


@pytest.mark.parametrize("offset", [1_000.0, 10_000.0, -300_000.0])
@pytest.mark.parametrize("topk", [None, 2])
def test_float16_keeps_what_a_teacher_means_whatever_its_logits_have_in_common(offset: float, topk: int | None) -> None:
    """Around 10,000 float16 counts in eights: half of the rows had another argmax, probabilities were off by 0.85."""
    half = layout(dtype="float16", centred=True, topk=topk)
    exact = logits(200) + offset
    found, _ = unpacked(packed(exact, {}, half), half, [])
    assert torch.equal(found.argmax(1), exact.argmax(1))
    top = exact.topk(topk or 5, dim=1).indices
    assert (found.softmax(1) - exact.softmax(1)).gather(1, top).abs().max() < 3e-3
    assert (found - exact).gather(1, top).abs().max() < 1e-5 * abs(offset)


def test_float16_stores_logits_of_both_signs_as_they_are() -> None:
    half = layout(dtype="float16", centred=True)
    kept = packed(logits(), {}, half)
    assert torch.equal(kept["logits"], logits().half())
    assert kept["offset"].tolist() == [0.0] * 3


def test_topk_keeps_the_probabilities_of_the_largest_and_spreads_the_rest_evenly() -> None:
    rows = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]])
    kept = packed(rows, {}, layout(topk=2))
    found, _ = unpacked(kept, layout(topk=2), [])
    exact, restored = rows.softmax(1)[0], found.softmax(1)[0]
    torch.testing.assert_close(restored[:2], exact[:2])
    torch.testing.assert_close(restored[2:], exact[2:].mean().expand(3))
    assert sorted(kept) == ["classes", "logits", "rest"]


def test_topk_of_a_certain_teacher_has_finite_logits_everywhere() -> None:
    rows = torch.tensor([[60_000.0, 0.0, 0.0, 0.0, -60_000.0]])
    half = layout(topk=1, dtype="float16")
    found, _ = unpacked(packed(rows, {}, half), half, [])
    assert found.isfinite().all()
    assert found.argmax() == 0


def test_restored_logits_find_their_classes() -> None:
    found = restored_logits(
        torch.tensor([[7.0, 6.0]]), torch.tensor([[3, 1]]), torch.tensor([math.log(3)]), num_classes=5
    )
    assert found.tolist() == [[0.0, 6.0, 0.0, 7.0, 0.0]]


def test_what_float16_cannot_hold_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"features at 'embedding' reach 7e\+04, and float16 ends at 65,504.*float32"):
        packed(logits(), {"embedding": torch.tensor([[70_000.0]] * 3)}, layout(dtype="float16"))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_teacher_that_says_no_number_is_not_banked(bad: float) -> None:
    with pytest.raises(UserError, match="logits are NaN or infinite"):
        packed(torch.full((1, 5), bad), {}, layout())


def test_topk_of_all_classes_is_refused() -> None:
    with pytest.raises(UserError, match="5 of 5 classes leaves out none"):
        layout(topk=5)


@pytest.mark.parametrize(
    "over", [{}, {"dtype": "float16", "centred": True}, {"topk": 2}, {"dtype": "float16", "topk": 2}]
)
def test_the_size_that_is_announced_is_the_size_that_is_stored(over: dict[str, object]) -> None:
    told = layout(taps={"embedding": [7], "map": [4, 2, 2]}, **over)
    features = {"embedding": torch.randn(3, 7), "map": torch.randn(3, 4, 2, 2)}
    kept = packed(logits(), features, told)
    places = 3 * (4 + 1)
    assert sum(tensor.nbytes for tensor in kept.values()) + places == 3 * told.row_bytes
    assert told.view_bytes == 10 * told.row_bytes
    assert set(kept) == {*told.output.names, "features.embedding", "features.map"}


@pytest.mark.parametrize("lost", ["offset", "rest"])
def test_a_shard_that_lacks_a_part_of_its_logits_is_refused(lost: str) -> None:
    told = layout(dtype="float16", centred=True, topk=2)
    places = {"indices": torch.arange(3), "copies": torch.zeros(3)}
    shard = {**places, **packed(logits(), {}, told)}
    del shard[lost]
    with pytest.raises(UserError, match="holds a shard that no bank has written"):
        BankView([shard], told, name="bank here", device=torch.device("cpu"))


def test_shards_share_out_the_steps_of_a_view() -> None:
    told = layout(num_samples=18, batch_size=4, steps_per_shard=2)
    assert [list(told.steps_of(shard)) for shard in range(told.num_shards)] == [[0, 1], [2, 3], [4]]


def test_the_numbers_of_very_many_classes_come_back_and_those_of_few_take_two_bytes() -> None:
    logits = torch.zeros(1, 40_000)
    logits[0, 39_999], logits[0, 32_768] = 9, 8
    kept = ClassRows(40_000, "float32", topk=2).packed(logits)
    assert kept["classes"].tolist() == [[39_999, 32_768]]
    assert ClassRows(10, "float32", topk=2).packed(logits[:, :10])["classes"].element_size() == 2


def test_a_view_of_copies_has_a_row_for_each_and_one_of_repeats_no_more_than_images() -> None:
    known = {"dtype": "float32", "num_classes": 10, "num_samples": 7, "batch_size": 4, "steps_per_shard": 1}
    plain, copies, repeats = (
        BankLayout.read({**known, **over}, what="the test's layout")
        for over in ({}, {"num_copies": 4}, {"num_repeats": 3})
    )
    assert (plain.view_rows, copies.view_rows, repeats.view_rows) == (7, 28, 7)
    assert copies.view_bytes == 4 * plain.view_bytes == 4 * repeats.view_bytes == 28 * 45
    assert (plain.num_draws, copies.num_draws, repeats.num_draws) == (1, 4, 3)
