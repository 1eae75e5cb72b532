"""data.augment_on: device: what follows the crop as whole batches, a function of seed, view, copy and sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.v2 import functional as transforms

from helpers.pretended_cuda import CUDA, pretended_cuda
from understudy.core.batch import Batch
from understudy.data import DataConfig, TensorSource, TrainLoader, open_data, train_loader
from understudy.data.augment.batched_crops import Parts
from understudy.data.augment.batched_parts import BatchedParts
from understudy.data.augment.batched_turns import Turns
from understudy.data.augment.config import CropFlip, ResizedCrop, RotateFlip
from understudy.data.augment.crops import crop_flip
from understudy.data.loaders import factory
from understudy.data.loaders.disk import StreamTrainLoader
from understudy.data.loaders.memory import MemoryTrainLoader
from understudy.data.loaders.on_device import DeviceTrainLoader
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.resized import ResizedSource, resized_source
from understudy.utils.errors import UserError

CPU = torch.device("cpu")
MEAN, STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
STRONG = {"rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4, "erasing": 0.25}


@pytest.fixture(scope="module")
def small() -> TensorSource:
    """23 images of 32 pixels."""
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (23, 3, 32, 32), generator=drawn, dtype=torch.uint8)
    return TensorSource(images, torch.arange(23) % 5)


def config(augment: dict[str, Any], root: str = "small", **settings: Any) -> DataConfig:
    common = {"batch_size": 4, "workers": 0, "augment_on": "device", "augment": augment}
    return DataConfig.read({"root": root, **common, **settings}, what="data")


def loader_of(source: Any, augment: dict[str, Any], *, device: Any = "cpu", **settings: Any) -> TrainLoader:
    sizes = {"image_size": settings.pop("image_size", 32), "teacher_size": settings.pop("teacher_size", None)}
    return train_loader(source, config(augment, **settings), seed=3, device=device, **sizes)


def by_row(batches: list[Batch]) -> dict[tuple[int, int], Tensor]:
    found = {}
    for batch in batches:
        copies = torch.zeros_like(batch.indices) if batch.copies is None else batch.copies
        for index, copy, image in zip(batch.indices.tolist(), copies.tolist(), batch.images, strict=True):
            found[index, copy] = image
    return found


CROP_FLIP = {"name": "crop_flip", **STRONG}
RESIZED = {"name": "resized_crop", **STRONG, "interpolation": "random"}
ROTATED = {"name": "rotate_flip", "erasing": 0.25}


def test_small_images_are_cropped_and_then_changed_as_the_draws_say(small: TensorSource) -> None:
    loader = loader_of(small, CROP_FLIP)
    assert isinstance(loader, MemoryTrainLoader)
    batch = next(iter(loader.epoch(3)))
    cropped = crop_flip(small.images[batch.indices], batch.indices, CropFlip(), seed=3, view=2)
    parts = BatchedParts.on(CPU, CropFlip(**STRONG), MEAN, STD)
    numbers = parts.drawn(batch.indices, seed=3, view=2, copies=0, size=32)
    assert torch.equal(parts.of([cropped], numbers)[0], batch.images)
    assert not torch.equal(cropped.float() / 255, batch.images)


@pytest.mark.parametrize("augment", [CROP_FLIP, RESIZED, ROTATED], ids=lambda augment: augment["name"])
@pytest.mark.parametrize("more", [{}, {"copies": "pairs"}, {"repeats": 2}], ids=str)
def test_pixels_do_not_depend_on_the_batch_or_on_where_a_run_began(
    small: TensorSource, augment: dict[str, Any], more: dict[str, Any]
) -> None:
    own, larger = (loader_of(small, augment, batch_size=size, **more) for size in (4, 10))
    batches = list(own.epoch(2))
    alone, beside = by_row(batches), by_row(list(larger.epoch(2)))
    if "repeats" not in more:  # a row's repeat is not written on it
        assert alone.keys() == beside.keys()
        assert all(torch.equal(image, beside[row]) for row, image in alone.items())
    resumed = list(loader_of(small, augment, **more).epoch(2, 3))
    assert all(torch.equal(one.images, other.images) for one, other in zip(batches[3:], resumed, strict=True))
    assert not any(torch.equal(image, alone[row]) for row, image in by_row(list(own.epoch(3))).items() if row in alone)
    if more.get("copies"):
        assert not torch.equal(batches[0].images[:4], batches[0].images[4:])


def test_parts_of_small_images_are_those_of_large_ones(small: TensorSource) -> None:
    """Which are cut out one by one, as decoded images are."""
    loader = loader_of(small, RESIZED, copies="pairs", teacher_size=48)
    assert isinstance(loader, MemoryTrainLoader)
    batch = next(iter(loader.epoch(2)))
    indices, copies = batch.indices, batch.copies
    draws: dict[str, Any] = {"seed": 3, "view": 1, "copies": copies, "size": 32}
    augment = ResizedCrop.nested(RESIZED)
    parts, batched = (
        Parts.drawn(indices, torch.tensor([[32, 32]] * 8), augment, **draws),
        BatchedParts.on(CPU, augment, MEAN, STD),
    )
    numbers = batched.drawn(indices, **draws)
    cut = parts.of(list(small.images[indices]), [32, 48], is_cubic=numbers[0] == 1, as_bytes=True)
    wanted = batched.of(cut, numbers)
    assert torch.equal(batch.images, wanted[0])
    assert torch.equal(batch.teacher_images, wanted[1])


def test_turned_images_are_torchvisions() -> None:
    images = torch.randint(256, (40, 3, 31, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    turns = Turns.drawn(torch.arange(40), RotateFlip(degrees=30), seed=0, view=0)
    rows = zip(images, turns.degrees.tolist(), turns.is_flipped.tolist(), strict=True)
    wanted = [transforms.rotate(image, degrees).flip(-1 if flip else ()) for image, degrees, flip in rows]
    found = turns.of(images)
    assert (found != torch.stack(wanted)).double().mean() < 1e-3  # 0 here: the nearest of two that are equally near
    assert 0 < int(turns.is_flipped.sum()) < 40
    assert not Turns.drawn(torch.arange(40), RotateFlip(flip=False), seed=0, view=0).is_flipped.any()


def test_angles_fill_their_range() -> None:
    degrees = Turns.drawn(torch.arange(5000), RotateFlip(degrees=20), seed=0, view=0).degrees
    assert -20 <= degrees.min() < -19.9
    assert 19.9 < degrees.max() <= 20
    assert abs(degrees.mean()) < 0.5
    assert degrees.std() == pytest.approx(20 / 3**0.5, abs=0.3)


def test_turned_images_alone_are_made_on_the_device_too(small: TensorSource) -> None:
    (batch,) = loader_of(small, {"name": "rotate_flip"}, batch_size=23, teacher_size=48).epoch(2)
    turned = Turns.drawn(batch.indices, RotateFlip(), seed=3, view=1).of(small.images[batch.indices])
    assert torch.equal(batch.images, turned.float() / 255)
    assert batch.teacher_images.shape == (23, 3, 48, 48)


def test_resized_crop_alone_is_done_on_the_device_too(small: TensorSource) -> None:
    (batch,) = loader_of(small, {"name": "resized_crop"}, batch_size=23).epoch(1)
    indices = batch.indices
    parts = Parts.drawn(
        indices, torch.tensor([[32, 32]] * 23), ResizedCrop(), seed=3, view=0, copies=0 * indices, size=32
    )
    torch.testing.assert_close(batch.images, parts.of(list(small.images[indices]), [32])[0], rtol=0, atol=1e-6)
    assert isinstance(loader_of(small, {"name": "resized_crop"}, augment_on="workers"), StreamTrainLoader)


def test_processes_share_the_pixels_of_one(small: TensorSource) -> None:
    whole = by_row(list(loader_of(small, CROP_FLIP).epoch(1)))
    for rank in range(2):
        loader = train_loader(small, config(CROP_FLIP), seed=3, image_size=32, rank=rank, world_size=2)
        for row, image in by_row(list(loader.epoch(1))).items():
            assert torch.equal(image, whole[row])


def test_the_teacher_sees_the_same_image_larger(small: TensorSource) -> None:
    augment = {"name": "crop_flip", "auto_augment": "original", "erasing": 0.5, "interpolation": "random"}
    batches = list(loader_of(small, augment, teacher_size=64).epoch(1))
    plain = list(loader_of(small, augment).epoch(1))
    for batch, alone in zip(batches, plain, strict=True):
        assert torch.equal(batch.images, alone.images)  # which the teacher's size does not change
        assert batch.teacher_images.shape[1:] == (3, 64, 64)
    own = torch.cat([batch.images for batch in batches])
    shrunk = torch.cat([transforms.resize(batch.teacher_images, [32, 32], antialias=True) for batch in batches])
    assert (shrunk - own).abs().mean() < 0.5 * (shrunk - own.roll(1, 0)).abs().mean()


def test_workers_do_it_where_nothing_is_said(small: TensorSource) -> None:
    """And give the pixels that they gave before there was a choice."""
    assert isinstance(loader_of(small, CROP_FLIP, augment_on="workers"), StreamTrainLoader)
    assert isinstance(loader_of(small, {"name": "crop_flip"}), MemoryTrainLoader)
    plain = loader_of(small, {"name": "crop_flip"}, augment_on="workers")
    for batch, other in zip(loader_of(small, {"name": "crop_flip"}).epoch(1), plain.epoch(1), strict=True):
        assert torch.equal(batch.images, other.images)


@pytest.mark.parametrize("name", ["crop_flip", "resized_crop", "rotate_flip"])
def test_batches_of_a_gpu_lie_on_it_altogether(small: TensorSource, name: str) -> None:
    augment = {"name": name, "color_jitter": 0.1, "erasing": 0.25, "interpolation": "random"}
    with pretended_cuda():
        source = TensorSource(small.images, small.labels)
        batch = next(iter(loader_of(source, augment, device=CUDA, teacher_size=48, copies="pairs").epoch(1)))
        assert {batch.images.device, batch.teacher_images.device, batch.copies.device} == {CUDA}
        assert batch.teacher_images.shape == (8, 3, 48, 48)


# Large images, decoded on the device


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, drawn = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(10):
        for split in ("train", "val"):
            folder = root / split / ("day" if number % 2 else "night")
            folder.mkdir(parents=True, exist_ok=True)
            coarse = drawn.integers(0, 256, (5, 7, 3), dtype=np.uint8)
            sides = [(130, 90), (80, 140), (70, 50)][number % 3]
            Image.fromarray(coarse).resize(sides, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def kept(root: Path) -> ResizedSource:
    return resized_source(open_data(DataConfig(root=str(root), cache=False)).train, 48)


def decoding(kept: ResizedSource, augment: dict[str, Any], *, teacher_size: int | None = None, **settings: Any) -> Any:
    """The loader of `decode: gpu`, on the CPU."""
    parts = ResizedCrop(**augment)
    plan = EpochPlan.of(len(kept), config({"name": "resized_crop"}, **settings), seed=3, share=Share())
    batched = BatchedParts.on(CPU, parts, MEAN, STD)
    return DeviceTrainLoader(
        kept, parts, plan, parts=batched, image_size=48, teacher_size=teacher_size, must_stop=True, device=CPU
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "random"])
def test_decoded_images_do_not_depend_on_the_batch(kept: ResizedSource, interpolation: str) -> None:
    augment = {**STRONG, "interpolation": interpolation}
    alone, beside = (by_row(list(decoding(kept, augment, batch_size=size).epoch(2))) for size in (3, 7))
    assert alone.keys() == beside.keys()
    assert all(torch.equal(image, beside[row]) for row, image in alone.items())  # to the last bit: exact sums
    resumed = next(decoding(kept, augment, batch_size=3).epoch(2, 2))
    assert all(torch.equal(image, alone[row]) for row, image in by_row([resumed]).items())
    (batch,) = decoding(kept, augment, batch_size=10, teacher_size=96).epoch(2)
    assert all(torch.equal(image, alone[row]) for row, image in by_row([batch]).items())
    assert batch.teacher_images.shape == (10, 3, 96, 96)


def test_settings_lead_to_batches_of_decoded_and_augmented_images(
    kept: ResizedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "device_problem", lambda *of: None)  # the CPU passes for a GPU
    strong = {**STRONG, "interpolation": "bicubic"}
    sizes: dict[str, Any] = {"image_size": 48, "decode": "gpu", "cache": "resized"}
    batch = next(iter(loader_of(kept, {"name": "resized_crop", **strong}, **sizes).epoch(1)))
    assert torch.equal(batch.images, next(decoding(kept, strong).epoch(1)).images)
    smooth = loader_of(kept, {"name": "resized_crop", "interpolation": "bicubic"}, augment_on="workers", **sizes)
    plain = next(decoding(kept, {"interpolation": "bicubic"}).epoch(1)).images
    assert torch.equal(next(iter(smooth.epoch(1))).images, plain)


@pytest.mark.parametrize("is_cubic", [False, True])
def test_parts_are_scaled_to_bytes_as_torchvision_scales_them(is_cubic: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    sides = [(90, 130), (20, 25), (48, 48)]
    images = [torch.randint(256, (3, *side), generator=drawn, dtype=torch.uint8) for side in sides]
    indices = torch.arange(3)
    parts = Parts.drawn(
        indices, torch.tensor(sides), ResizedCrop(flip=False), seed=1, view=0, copies=0 * indices, size=48
    )
    cubic = torch.full((3,), is_cubic)
    (exact,), (floats,) = (parts.of(images, [48], is_cubic=cubic, as_bytes=as_bytes) for as_bytes in (True, False))
    boxes = torch.stack([parts.top, parts.left, parts.height, parts.width], 1).tolist()
    kind = transforms.InterpolationMode.BICUBIC if is_cubic else transforms.InterpolationMode.BILINEAR
    for image, box, ours, unit in zip(images, boxes, exact, floats, strict=True):
        part = transforms.crop(image, *box).float() / 255
        wanted = transforms.resize(part, [48, 48], interpolation=kind, antialias=True).clamp(0, 1)
        torch.testing.assert_close(unit, wanted, rtol=0, atol=3e-6)
        far = (ours.double() - 255 * wanted.double()).abs()
        assert far.max() < 0.502  # rounded, by weights of 20 bits


def test_mixed_interpolations_are_each_images_own(kept: ResizedSource) -> None:
    met = set()
    ways = {kind: by_row(list(decoding(kept, {"interpolation": kind}).epoch(1))) for kind in ("bilinear", "bicubic")}
    for row, image in by_row(list(decoding(kept, {"interpolation": "random"}).epoch(1))).items():
        met |= {kind for kind, images in ways.items() if torch.allclose(images[row], image, rtol=0, atol=2e-6)}
    assert met == {"bilinear", "bicubic"}


def test_parts_within_stored_images_read_nothing_from_a_gpu() -> None:
    with FakeTensorMode():
        numbers = torch.zeros(5, 2, dtype=torch.int64, device=CUDA)
        images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=CUDA)
        (shown,) = Parts.unpacked(numbers).within(images, [48], is_cubic=numbers[0] == 1, as_bytes=True)
        assert (shown.device, shown.shape, shown.dtype) == (CUDA, (2, 3, 48, 48), torch.uint8)


def test_decoded_images_of_a_gpu_stay_on_it() -> None:
    parts = ResizedCrop(**STRONG)
    numbers = BatchedParts.on(CPU, parts, MEAN, STD).drawn(torch.arange(2), seed=0, view=0, copies=0, size=48)
    with pretended_cuda():
        there = BatchedParts.on(CUDA, parts, MEAN, STD)
        images = [torch.zeros(3, *side, dtype=torch.uint8, device=CUDA) for side in [(60, 50), (49, 70)]]
        cut = Parts(*(torch.tensor([1, 1]) for _ in range(4)), torch.tensor([True, False]))
        shown = cut.of(images, [48], is_cubic=torch.tensor([True, False]), as_bytes=True)
        assert {picture.device for picture in there.of(shown, numbers.clone())} == {CUDA}


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ({"name": "crop_flip", "auto_augment": "3a"}, "3a has GaussianBlurRand, which is done in workers only"),
        ({"name": "crop_flip", "rand_augment": "rand-n16-tweights"}, "takes 16 different operations"),
    ],
)
def test_what_cannot_be_done_on_the_device_is_refused(small: TensorSource, augment: dict[str, Any], said: str) -> None:
    message = rf"data\.augment_on: device cannot be: .*{said}.*Leave it out, and workers augment"
    with pytest.raises(UserError, match=message):
        loader_of(small, augment)


def test_images_that_workers_decode_and_those_of_other_kinds_are_refused(root: Path, small: TensorSource) -> None:
    files = open_data(DataConfig(root=str(root), cache=False)).train
    for augment in ({"name": "resized_crop", **STRONG}, {"name": "resized_crop"}):
        with pytest.raises(UserError, match=r"workers decode these images; large ones take data\.decode: gpu and"):
            loader_of(files, augment, root=str(root), cache=False)
    floats = TensorSource(small.images.float() / 255, small.labels)
    for augment in ({"name": "crop_flip", "color_jitter": 0.4}, {"name": "resized_crop"}):
        with pytest.raises(UserError, match=r"take 8-bit images, and these are torch\.float32"):
            loader_of(floats, augment)
    assert next(iter(loader_of(floats, {"name": "crop_flip", "erasing": 0.9}).epoch(1))).images.min() < 0
    with pytest.raises(UserError, match="Apple's GPUs do not have"):
        loader_of(small, CROP_FLIP, device="mps")
    with pytest.raises(UserError, match=r"augment_on: device and decode: auto do not go together.*say decode: gpu"):
        config(CROP_FLIP, decode="auto")
