"""Colour jitter and erasing on whole batches, and all parts together: torchvision's pixels, timm's rectangles."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torchvision.transforms.v2 import functional as transforms

from understudy.data.augment.batched_parts import BatchedParts, batched_problem
from understudy.data.augment.config import AugmentParts
from understudy.utils.seeding import globally_seeded

CPU = torch.device("cpu")
MEAN, STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
ALL = {"rand_augment": "rand-m9-mstd0.5-inc1", "interpolation": "random", "color_jitter": 0.4, "erasing": 0.5}
NUM_DRAWN = 1 + 4 + 4 + 5  # of these: scaling, two operations with their arguments, jitter, erasing


def batched(**parts: object) -> BatchedParts:
    return BatchedParts.on(CPU, AugmentParts(**parts), MEAN, STD)


def drawn(parts: BatchedParts, count: int, *, view: int = 0, copies: int | Tensor = 0, size: int = 24) -> Tensor:
    return parts.drawn(torch.arange(count), seed=5, view=view, copies=copies, size=size)


def noise(count: int, size: int = 24) -> Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def numbers_of(bits: Tensor) -> list[float]:
    found: list[float] = bits.contiguous().view(torch.float64).tolist()
    return found


@pytest.mark.parametrize("in_groups", [True, False])
def test_colour_jitter_makes_the_pixels_that_torchvision_makes(in_groups: bool) -> None:
    parts, images = batched(color_jitter=0.7), noise(60)
    numbers = drawn(parts, 60)
    (found,) = parts.of([images], numbers, in_groups=in_groups)
    changes = (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation)
    for image, row, ours in zip(images, numbers[1:].T, found, strict=True):
        factors, wanted = numbers_of(row[1:]), image
        for which in list(permutations(range(3)))[int(row[0])]:
            wanted = changes[which](wanted, factors[which])
        assert torch.equal(ours, wanted)
    assert set(numbers[1].tolist()) == set(range(6))


def test_factors_of_colour_jitter_fill_their_range_and_orders_are_even() -> None:
    numbers = drawn(batched(color_jitter=1.5), 6000)[1:]
    factors = numbers[1:].contiguous().view(torch.float64)
    assert 0 <= factors.min() < 0.01
    assert 2.49 < factors.max() < 2.5
    assert factors.mean(1).tolist() == pytest.approx([1.25] * 3, abs=0.03)
    assert numbers[0].bincount().double().div(6000).tolist() == pytest.approx([1 / 6] * 6, abs=0.015)


def rectangles(numbers: Tensor) -> Tensor:
    """(n,4) top, left, height, width of those that are there."""
    found: Tensor = numbers[1:5, numbers[3] > 0].T.double()
    return found


def test_rectangles_are_distributed_as_timms() -> None:
    count, size = 3000, 48
    ours = rectangles(drawn(batched(erasing=1.0), count, size=size))
    theirs = []
    erase = RandomErasing(1.0, mode="const", device="cpu")
    with globally_seeded(0):
        for _ in range(count // 2):
            rows, columns = (erase(torch.ones(1, size, size))[0] == 0).nonzero().T
            top, left = rows.min(), columns.min()
            theirs.append(torch.stack([top, left, rows.max() - top + 1, columns.max() - left + 1]))
    wanted = torch.stack(theirs).double()
    assert len(ours) == count
    torch.testing.assert_close(ours.mean(0), wanted.mean(0), rtol=0, atol=1.0)
    torch.testing.assert_close(ours.std(0), wanted.std(0), rtol=0.08, atol=0)
    shares = torch.tensor([0.05, 0.5, 0.95]).double()
    area, their_area = ((of[:, 2] * of[:, 3]).quantile(shares) for of in (ours, wanted))
    torch.testing.assert_close(area, their_area, rtol=0.12, atol=0)
    assert ((ours[:, 0] + ours[:, 2] <= size) & (ours[:, 1] + ours[:, 3] <= size)).all()
    assert len(rectangles(drawn(batched(erasing=0.25), count))) == pytest.approx(count / 4, abs=80)


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (MEAN, STD))
    return (images - mean) / std


@pytest.mark.parametrize("in_groups", [True, False])
def test_what_is_erased_is_standard_noise_after_the_models_normalisation(in_groups: bool) -> None:
    parts, images = batched(erasing=0.5), noise(80)
    numbers = drawn(parts, 80)
    (found,) = parts.of([images], numbers, in_groups=in_groups)
    assert found.dtype == torch.float32
    values = []
    for image, shown, (top, left, height, width, _) in zip(images, found, numbers[1:].T.tolist(), strict=True):
        plain = image.float() / 255
        inside = torch.zeros(24, 24, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        assert torch.equal(shown[:, ~inside], plain[:, ~inside])
        values.append(normalised(shown)[:, inside].flatten())
    drawn_values = torch.cat(values)
    assert len(drawn_values) > 5000
    assert abs(drawn_values.mean().item()) < 0.05
    assert drawn_values.std().item() == pytest.approx(1, abs=0.03)
    assert (drawn_values.abs() > 1.96).double().mean().item() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("mode", ["const", "rand"])
def test_a_colour_is_one_for_each_rectangle(mode: str) -> None:
    parts = batched(erasing=1.0, erase_mode=mode)
    numbers = drawn(parts, 8)
    (found,) = parts.of([noise(8)], numbers)
    colours = []
    for shown, (top, left, height, width, _) in zip(found, numbers[1:].T.tolist(), strict=True):
        inside = normalised(shown)[:, top : top + height, left : left + width].flatten(1)
        torch.testing.assert_close(inside, inside[:, :1].expand_as(inside))
        colours.append(inside[:, 0])
    assert (torch.stack(colours).abs().max() < 1e-6) == (mode == "const")
    assert mode == "const" or torch.stack(colours).std(0).min() > 0.3


def test_the_teacher_sees_the_same_at_another_size() -> None:
    parts, images = batched(erasing=1.0), noise(12)
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    numbers = drawn(parts, 12)
    small, doubled = parts.of([images, large], numbers)
    assert torch.equal(small.repeat_interleave(2, 2).repeat_interleave(2, 3), doubled)
    assert torch.equal(parts.of([images], numbers)[0], small)


@pytest.mark.parametrize("in_groups", [True, False])
def test_rows_are_a_function_of_seed_view_copy_and_sample(in_groups: bool) -> None:
    parts, images = batched(**ALL), noise(30)
    numbers = drawn(parts, 30)
    (whole,) = parts.of([images], numbers, in_groups=in_groups)
    for rows in (slice(3, 9), [29, 4]):
        (some,) = parts.of([images[rows]], numbers[:, rows], in_groups=in_groups)
        assert torch.equal(some, whole[rows])
    (other_way,) = parts.of([images], numbers, in_groups=not in_groups)
    assert torch.equal(other_way, whole)
    for other in (drawn(parts, 30, view=1), drawn(parts, 30, copies=1)):
        assert not torch.equal(other, numbers)
    both = drawn(parts, 30, copies=torch.arange(2)[:, None])
    assert torch.equal(both[:, 0], numbers)
    assert torch.equal(both[:, 1], drawn(parts, 30, copies=1))


def test_nothing_is_read_from_a_gpu() -> None:
    """FakeTensors have no values to read, and refuse what lies on two devices: a CUDA graph could repeat this."""
    with FakeTensorMode():
        there = torch.device("cuda", 0)
        parts = BatchedParts.on(there, AugmentParts(**ALL), MEAN, STD)
        numbers = torch.zeros(NUM_DRAWN, 2, dtype=torch.int64, device=there)
        (shown,) = parts.of([torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device=there)], numbers)
        assert (shown.device, shown.dtype) == (there, torch.float32)
        with pytest.raises(DynamicOutputShapeException):
            parts.of([torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device=there)], numbers, in_groups=True)
    assert len(drawn(batched(**ALL), 2)) == NUM_DRAWN


def test_images_of_one_channel_can_be_erased() -> None:
    parts = BatchedParts.on(CPU, AugmentParts(erasing=1.0), [0.5], [0.25])
    (found,) = parts.of([noise(4)[:, :1]], drawn(parts, 4))
    assert found.shape == (4, 1, 24, 24)


def test_what_cannot_be_done_on_batches_is_said() -> None:
    assert batched_problem(AugmentParts(**ALL)) is None
    assert "workers only" in str(batched_problem(AugmentParts(auto_augment="3a")))
