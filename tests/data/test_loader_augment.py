"""The same sample in the same view and copy has the same pixels: for every augmentation, however it is loaded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from helpers.images import pixels
from understudy.core.batch import Batch
from understudy.data import (
    CropFlip,
    DataConfig,
    DataSplits,
    NoAugment,
    ResizedCrop,
    RotateFlip,
    TensorSource,
    dataset_splits,
    open_data,
    train_loader,
)
from understudy.data.augment.config import Augment, ScaleCrop
from understudy.utils.errors import UserError


@dataclass(frozen=True)
class Setting:
    """A way to augment, and the images that it is for."""

    augment: Augment
    is_small: bool
    more: dict[str, Any] = field(default_factory=dict)


RAND = "rand-m9-mstd0.5"
SETTINGS = {
    "DIST A1, CRD": Setting(CropFlip(), is_small=True),
    "DIST B1": Setting(ResizedCrop(), is_small=False),
    "DIST B2": Setting(ResizedCrop(rand_augment=RAND, erasing=0.2), is_small=False),
    "DIST B3": Setting(
        ResizedCrop(rand_augment=RAND, color_jitter=0.4, erasing=0.25, interpolation="random"),
        is_small=False,
        more={"mix": {}},
    ),
    "DeiT": Setting(
        ResizedCrop(rand_augment=f"{RAND}-inc1", erasing=0.25, interpolation="bicubic"),
        is_small=False,
        more={"mix": {"mode": "elem"}},
    ),
    "projector, pairs": Setting(CropFlip(rand_augment=RAND), is_small=True, more={"copies": "pairs"}),
    "projector, rotations": Setting(CropFlip(), is_small=True, more={"copies": "rotations"}),
    "DOT on Tiny-ImageNet": Setting(RotateFlip(), is_small=True),
    "AutoAugment": Setting(CropFlip(auto_augment="original", erasing=1.0, erase_mode="rand"), is_small=True),
    "pairs of crops": Setting(CropFlip(), is_small=True, more={"copies": "pairs"}),
    "none": Setting(NoAugment(), is_small=False, more={"copies": "pairs"}),
    "weak and strong": Setting(
        CropFlip(), is_small=True, more={"copies": "pairs", "second_augment": CropFlip(rand_augment=RAND)}
    ),
    "weak and strong of files": Setting(
        NoAugment(), is_small=False, more={"copies": "pairs", "second_augment": ResizedCrop(color_jitter=0.4)}
    ),
}


def small_data(count: int = 14) -> DataSplits:
    images = torch.from_numpy(np.stack([pixels(i, 32, 32) for i in range(count)])).permute(0, 3, 1, 2).contiguous()
    source = TensorSource(images, torch.arange(count) % 3)
    return DataSplits("small", ("a", "b", "c"), train=source, val=source, test=None, val_origin="train")


@pytest.fixture(params=SETTINGS)
def opened(request: pytest.FixtureRequest, write_tree: Callable[..., Path]) -> tuple[DataSplits, DataConfig]:
    setting = SETTINGS[request.param]
    config = DataConfig(root="x", batch_size=4, workers=0, augment=setting.augment, **setting.more)
    if setting.is_small:
        return small_data(), config
    root = write_tree({"train/cat": 7, "train/dog": 7, "val/cat": 1, "val/dog": 1}, size=(80, 70))
    config = config.model_copy(update={"root": str(root)})
    return open_data(config), config


def loaded(data: DataSplits, config: DataConfig, start: int = 0, **options: Any) -> list[Batch]:
    loader = train_loader(data, config, seed=7, image_size=32, teacher_size=40, **options)
    return list(loader.epoch(2, start))


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    named = {name: getattr(batch, name) for name in ("images", "teacher_images", "targets", "indices", "copies")}
    return {name: value for name, value in named.items() if value is not None}


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        for one, other in zip(map(tensors_of, first), map(tensors_of, second), strict=True)
    )


def joined(batches: list[Batch]) -> dict[str, Tensor]:
    """All rows, copy after copy, each in loading order."""
    rows = {key: torch.cat([tensors_of(batch)[key] for batch in batches]) for key in tensors_of(batches[0])}
    order = rows["copies"].argsort(stable=True) if "copies" in rows else slice(None)
    return {key: value[order] for key, value in rows.items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_every_augmentation_of_images_alone_is_tried_here() -> None:
    assert {type(setting.augment) for setting in SETTINGS.values()} == set(get_args(Augment)) - {ScaleCrop}


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(opened: tuple[DataSplits, DataConfig], workers: int) -> None:
    data, config = opened
    with_workers = config.model_copy(update={"workers": workers})
    assert same(loaded(data, config), loaded(data, with_workers))


def test_resuming_inside_an_epoch_changes_nothing(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    assert same(loaded(data, config)[2:], loaded(data, config, start=2))


def test_what_was_drawn_before_changes_nothing_and_nothing_is_drawn(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    before = loaded(data, config)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    assert same(before, loaded(data, config))
    assert random.getstate() == python_state
    assert all(np.array_equal(one, other) for one, other in zip(np.random.get_state(), numpy_state, strict=True))
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_batch_size_changes_no_sample(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    config = config.model_copy(update={"mix": None})  # which is of batches
    assert equal(
        joined(loaded(data, config)), joined(loaded(data, config.model_copy(update={"batch_size": len(data.train)})))
    )


@pytest.mark.parametrize("world_size", [2, 3])
def test_batches_of_several_processes_are_those_of_one(opened: tuple[DataSplits, DataConfig], world_size: int) -> None:
    data, config = opened
    config = config.model_copy(update={"mix": None, "batch_size": 5})  # 5, 5 and 4 samples
    whole = loaded(data, config)
    shares = [loaded(data, config, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [len(share) for share in shares] == [3] * world_size
    for step, batch in enumerate(whole):
        assert equal(joined([share[step] for share in shares]), joined([batch]))


def test_epochs_and_seeds_look_different(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    if isinstance(config.augment, NoAugment):
        return
    plain = config.model_copy(update={"mix": None})
    loader, other = (train_loader(data, plain, seed=seed, image_size=32) for seed in (7, 8))
    sights = [joined(list(batches)) for batches in (loader.epoch(1), loader.epoch(2), other.epoch(1))]
    first, *others = (rows["images"][rows["indices"].argsort(stable=True)] for rows in sights)
    for images in others:
        assert (first != images).flatten(1).any(dim=1).float().mean() > 0.7


class Pictures(Dataset[Any]):
    """PIL images through a person's own transform."""

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform
        self.targets = [i % 2 for i in range(10)]

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(pixels(i, 40, 40))), self.targets[i]


OWN_TRANSFORM = v2.Compose(
    [
        v2.RandomResizedCrop(32),
        v2.RandAugment(),
        v2.ColorJitter(0.4, 0.4, 0.4),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomErasing(p=0.5, value="random"),
    ]
)


@pytest.mark.parametrize("copies", ["none", "pairs"])
def test_transform_of_a_persons_own_data_set_is_seeded_as_well(copies: str) -> None:
    config = DataConfig(root="own", batch_size=3, workers=0, val_fraction=0.2, copies=copies)
    data = dataset_splits(Pictures(OWN_TRANSFORM), config=config)
    alone = loaded(data, config)
    assert same(alone, loaded(data, config))
    assert same(alone, loaded(data, config.model_copy(update={"workers": 1})))
    assert same(alone[1:], loaded(data, config, start=1))
    if copies == "pairs":
        one, other = joined(alone)["images"].chunk(2)
        assert (one != other).flatten(1).any(dim=1).all()


def test_transform_with_a_generator_of_its_own_keeps_it() -> None:
    generator = random.Random(0)
    drawn: list[float] = []

    def noted(image: Any) -> Tensor:
        drawn.append(generator.random())
        return v2.functional.pil_to_tensor(image)

    config = DataConfig(root="own", batch_size=4, workers=0)
    data = dataset_splits(Pictures(noted), config=config)
    drawn.clear()
    generator.seed(0)
    list(train_loader(data, config, seed=0, image_size=32).epoch(1))
    reference = random.Random(0)
    assert drawn == [reference.random() for _ in drawn]
    assert len(drawn) >= 8


def test_rand_augment_of_what_a_transform_made_floating_point_is_refused() -> None:
    config = DataConfig(root="own", augment={"name": "crop_flip", "rand_augment": RAND})
    data = dataset_splits(Pictures(OWN_TRANSFORM), config=config)
    with pytest.raises(UserError, match=r"data\.augment: rand-m9-mstd0\.5 works on 8-bit images, but a transform"):
        train_loader(data, config, seed=0, image_size=32)


@pytest.fixture(autouse=True)
def _generators_are_put_back() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
