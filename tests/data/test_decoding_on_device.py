"""Images kept as JPEG, decoded and cropped as whole batches: on the CPU here, by the code that a GPU runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from understudy.core.batch import Batch
from understudy.data import DataConfig, open_data, train_loader
from understudy.data.augment.batched_crops import Parts, scaling_weights
from understudy.data.augment.config import CropFlip, ResizedCrop
from understudy.data.loaders.on_device import DeviceTrainLoader, device_problem
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.resized import ResizedSource, resized_source
from understudy.utils.errors import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of noise over waves, wide and tall, and a broken one."""
    root, drawn = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for number in range(count):
            folder = root / split / ("day" if number % 2 else "night")
            folder.mkdir(parents=True, exist_ok=True)
            height, width = [(90, 130), (140, 80), (50, 70)][number % 3]
            waves = np.sin(np.linspace(0, 3 + number, height))[:, None] + np.cos(np.linspace(0, 4, width))[None]
            picture = np.stack([waves * 60 + 127, waves * 30 + 90, 200 - waves * 40], -1)
            noisy = picture + drawn.normal(0, 10, picture.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    whole = (root / "train" / "day" / "1.png").read_bytes()
    (root / "train" / "day" / "broken.png").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture(scope="module")
def source(root: Path) -> ResizedSource:
    return resized_source(open_data(config(root)).train, 32)


def config(root: Path, **settings: Any) -> DataConfig:
    common = {"batch_size": 4, "workers": 0, "cache": False}
    return DataConfig.read({"root": str(root), **common, **settings}, what="data")


def loader_of(source: ResizedSource, root: Path, *, must_stop: bool = False, **settings: Any) -> DeviceTrainLoader:
    sizes = {"image_size": settings.pop("image_size", 32), "teacher_size": settings.pop("teacher_size", None)}
    plan = EpochPlan.of(len(source), config(root, **settings), seed=3, share=Share())
    return DeviceTrainLoader(source, ResizedCrop(), plan, must_stop=must_stop, device=CPU, **sizes)


def boxes(parts: Parts) -> list[list[int]]:
    return torch.stack([parts.top, parts.left, parts.height, parts.width], 1).tolist()


def drawn(count: int, height: int, width: int, **settings: Any) -> Parts:
    sides = torch.tensor([[height, width]]).expand(count, -1)
    indices = torch.arange(count)
    return Parts.drawn(
        indices, sides, ResizedCrop(**settings), seed=1, view=0, copies=torch.zeros_like(indices), size=32
    )


@pytest.mark.parametrize("sides", [(90, 130), (20, 25), (32, 32)])
@pytest.mark.parametrize("size", [32, (24, 40)])
def test_a_batch_of_parts_is_scaled_as_torchvision_scales_each(sides: tuple[int, int], size: Any) -> None:
    images = [torch.randint(256, (3, *sides), dtype=torch.uint8) for _ in range(6)]
    parts = drawn(6, *sides)
    (found,) = parts.of(images, [size])
    wanted_size = [size, size] if isinstance(size, int) else list(size)
    for image, box, is_flipped, ours in zip(images, boxes(parts), parts.is_flipped, found, strict=True):
        part = transforms.crop(image, *box).float() / 255
        wanted = transforms.resize(part, wanted_size, antialias=True)
        torch.testing.assert_close(ours, wanted.flip(-1) if is_flipped else wanted, rtol=0, atol=2e-6)
    assert 0 < int(parts.is_flipped.sum()) < 6


def test_parts_have_the_area_and_the_shape_that_is_asked_for_and_lie_anywhere() -> None:
    parts = drawn(3000, 100, 150, scale=(0.2, 0.5), ratio=(0.8, 1.25))
    areas = (parts.height * parts.width).double() / (100 * 150)
    ratios = parts.width / parts.height
    assert 0.19 < areas.min() < 0.21 < 0.49 < areas.max() < 0.51
    assert areas.mean() == pytest.approx(0.35, abs=0.01)
    assert 0.78 < ratios.min() < 0.82 < 1.22 < ratios.max() < 1.28
    assert ratios.log().mean() == pytest.approx(0, abs=0.01)
    for start, length, side in ((parts.top, parts.height, 100), (parts.left, parts.width, 150)):
        share = start / (side - length).clamp_min(1)
        assert (start >= 0).all()
        assert (start + length <= side).all()
        assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert parts.is_flipped.double().mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("sides", [(10, 400), (400, 10)])
def test_the_centre_is_taken_of_what_no_part_fits(sides: tuple[int, int]) -> None:
    parts = drawn(3, *sides, scale=(0.9, 1.0))
    height, width = min(sides[0], round(sides[1] / 0.75)), min(sides[1], round(sides[0] * 4 / 3))
    assert boxes(parts) == [[(sides[0] - height) // 2, (sides[1] - width) // 2, height, width]] * 3


def test_weights_of_a_row_add_up_to_one_and_leave_padding_alone() -> None:
    weights = scaling_weights(torch.tensor([5, 40]), 40, 8)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 8))
    assert (weights[0, :, 5:] == 0).all()


def images_of(batches: list[Batch]) -> dict[int, Tensor]:
    return {int(i): image for batch in batches for i, image in zip(batch.indices, batch.images, strict=True)}


def test_pixels_depend_on_seed_view_copy_and_number_alone(source: ResizedSource, root: Path) -> None:
    small, large = (images_of(list(loader_of(source, root, batch_size=size).epoch(2))) for size in (2, 5))
    assert small.keys() == large.keys()
    for number, image in small.items():
        torch.testing.assert_close(large[number], image, rtol=0, atol=1e-6)  # sums of other lengths
    again, later = (list(loader_of(source, root).epoch(epoch)) for epoch in (2, 3))
    whole = list(loader_of(source, root).epoch(2))
    assert all(torch.equal(one.images, other.images) for one, other in zip(whole, again, strict=True))
    assert torch.equal(whole[2].images, next(loader_of(source, root).epoch(2, 2)).images)
    assert any(not torch.equal(image, small[number]) for number, image in images_of(later).items())
    assert {batch.view for batch in later} == {2}


def test_an_image_that_cannot_be_read_gives_way_or_stops(source: ResizedSource, root: Path) -> None:
    loader = loader_of(source, root)
    numbers = [i for batch in loader.epoch(1) for i in batch.indices.tolist()]
    broken = next(i for i in range(len(source)) if "broken" in source.name(i))
    assert len(numbers) == len(source)
    assert broken not in numbers
    assert len(loader.skipped) == 1
    assert "broken.png" in loader.skipped[0]
    with pytest.raises(UserError, match=r"broken\.png"):
        list(loader_of(source, root, must_stop=True).epoch(1))


def test_copies_and_the_teachers_size_and_labels_come_along(source: ResizedSource, root: Path) -> None:
    batch = next(loader_of(source, root, copies="pairs", teacher_size=48).epoch(1))
    assert batch.images.shape == (8, 3, 32, 32)
    assert batch.teacher_images.shape == (8, 3, 48, 48)
    assert batch.copies.tolist() == [0] * 4 + [1] * 4
    assert batch.indices[:4].tolist() == batch.indices[4:].tolist()
    assert not torch.equal(batch.images[:4], batch.images[4:])
    assert torch.equal(batch.targets, source.labels[batch.indices])
    small = transforms.resize(batch.teacher_images, [32, 32], antialias=True)
    assert (small - batch.images).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("augment", "device", "said"),
    [
        (ResizedCrop(), CPU, "takes CUDA, and this run is on the cpu"),
        (CropFlip(), CUDA, "takes data.augment: resized_crop, and this is crop_flip"),
        (ResizedCrop(rand_augment="rand-m9-n2"), CUDA, "are done in workers; set data.augment_on: device, or leave"),
        (ResizedCrop(erasing=0.1), CUDA, "are done in workers"),
        (ResizedCrop(interpolation="bicubic"), CUDA, None),
        (ResizedCrop(), CUDA, None),
    ],
)
def test_what_cannot_be_done_on_the_device_is_said(
    source: ResizedSource, root: Path, augment: Any, device: torch.device, said: str | None
) -> None:
    problem = device_problem(source, augment, config(root), device)
    assert (problem is None) == (said is None)
    assert said is None or said in str(problem)


def test_it_is_refused_without_cuda_and_without_files_in_memory(source: ResizedSource, root: Path) -> None:
    with pytest.raises(UserError, match=r"data\.decode: gpu cannot be: that takes CUDA.*workers decode"):
        train_loader(source, config(root, decode="gpu"), seed=0, image_size=32, device=CPU)
    assert "set data.cache: resized" in str(
        device_problem(open_data(config(root)).train, ResizedCrop(), config(root), CUDA)
    )
