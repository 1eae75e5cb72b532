from __future__ import annotations

import pytest
import torch

from understudy.core.batch import Batch
from understudy.data import DataConfig, DataSplits, open_data, train_loader
from understudy.data.augment.copies import with_rotations
from understudy.utils.errors import UserError


def test_each_block_of_a_batch_is_turned_by_another_quarter() -> None:
    images = torch.rand(3, 3, 4, 4)
    batch = with_rotations(Batch(images=images, targets=torch.tensor([5, 6, 7]), indices=torch.tensor([9, 8, 7])))

    assert batch.copies is not None
    assert batch.copies.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert batch.targets.tolist() == [5, 6, 7] * 4
    assert batch.indices is not None
    assert batch.indices.tolist() == [9, 8, 7] * 4
    for turns in range(4):
        torch.testing.assert_close(batch.images[3 * turns : 3 * turns + 3], images.rot90(turns, (2, 3)))


def test_the_teacher_sees_the_same_turns_at_its_own_size() -> None:
    larger = torch.rand(2, 3, 8, 8)
    batch = with_rotations(Batch(images=torch.rand(2, 3, 4, 4), targets=torch.zeros(2), teacher_images=larger))
    assert batch.teacher_images is not None
    torch.testing.assert_close(batch.teacher_images[4:6], larger.rot90(2, (2, 3)))


def test_the_plain_block_is_what_the_loader_gives_without_copies() -> None:
    config = DataConfig(root="digits", batch_size=16)
    data = open_data(config)
    plain = next(iter(train_loader(data, config, seed=3, image_size=8).epoch(1)))
    rotating = train_loader(data, config.model_copy(update={"copies": "rotations"}), seed=3, image_size=8)
    rotated = next(iter(rotating.epoch(1)))

    assert len(rotated.images) == 4 * len(plain.images)
    torch.testing.assert_close(rotated.images[:16], plain.images)
    assert rotating.steps_per_epoch == -(-len(data.train) // 16)


def test_pairs_show_two_crops_of_each_sample_side_by_side() -> None:
    config = DataConfig(root="digits", batch_size=16, augment="crop_flip")
    data = open_data(config)
    plain = next(iter(train_loader(data, config, seed=3, image_size=8).epoch(1)))
    loader = train_loader(data, config.model_copy(update={"copies": "pairs"}), seed=3, image_size=8)
    pair = next(iter(loader.epoch(1)))

    assert (loader.batch_size, len(pair.images)) == (16, 32)
    assert pair.copies is not None
    assert pair.copies.tolist() == [0] * 16 + [1] * 16
    assert pair.indices is not None
    assert plain.indices is not None
    assert pair.indices.tolist() == plain.indices.tolist() * 2
    assert torch.equal(pair.targets[:16], pair.targets[16:])
    assert torch.equal(pair.images[:16], plain.images)
    assert (pair.images[:16] != pair.images[16:]).flatten(1).any(dim=1).sum() >= 14


def test_pairs_of_rand_augment_keep_the_first_view_of_the_plain_loader() -> None:
    config = DataConfig(
        root="digits", batch_size=8, workers=0, augment={"name": "crop_flip", "rand_augment": "rand-m9-mstd0.5"}
    )
    data = open_data(config)
    plain = next(iter(train_loader(data, config, seed=3, image_size=8).epoch(1)))
    pair = next(iter(train_loader(data, config.model_copy(update={"copies": "pairs"}), seed=3, image_size=8).epoch(1)))
    assert torch.equal(pair.images[:8], plain.images)
    assert not torch.equal(pair.images[8:], plain.images)
    assert pair.copies is not None
    assert pair.copies.tolist() == [0] * 8 + [1] * 8


STRONG = {"name": "crop_flip", "rand_augment": "rand-m10-n2-p1-mstd101"}
PAIRS = {"copies": "pairs", "second_augment": STRONG}


def first_batch(data: DataSplits, config: DataConfig, **settings: object) -> Batch:
    changed = DataConfig.model_validate(config.model_dump() | settings)
    return next(iter(train_loader(data, changed, seed=3, image_size=8).epoch(1)))


@pytest.fixture(scope="module")
def digits() -> tuple[DataSplits, DataConfig]:
    config = DataConfig(root="digits", batch_size=8, workers=0, augment="crop_flip")
    return open_data(config), config


@pytest.mark.parametrize("where", ["workers", "device"])
def test_a_strong_second_view_stands_beside_the_weak_one(where: str, digits: tuple[DataSplits, DataConfig]) -> None:
    data, config = digits
    pair = first_batch(data, config, augment_on=where, **PAIRS)
    strong = first_batch(data, config, augment_on=where, copies="pairs", augment=STRONG)
    assert pair.copies is not None
    assert pair.copies.tolist() == [0] * 8 + [1] * 8
    assert torch.equal(pair.targets[:8], pair.targets[8:])
    assert torch.equal(pair.images[8:], strong.images[8:])  # as if both views were strong
    assert not torch.equal(pair.images[:8], strong.images[:8])
    if where == "device":
        assert torch.equal(pair.images, pair.made().images)
        assert torch.equal(pair.images[:8], first_batch(data, config).images)  # as if there was no second one


def test_a_second_view_can_be_the_weaker_one_and_of_another_kind(digits: tuple[DataSplits, DataConfig]) -> None:
    data, config = digits
    pair = first_batch(data, config, copies="pairs", augment=STRONG, second_augment="none")
    stored = torch.stack([data.train.image(int(index)) for index in pair.indices[8:]])  # type: ignore[index]
    assert torch.equal(pair.images[8:], stored / 255)


def test_a_second_view_is_a_setting_of_pairs_alone() -> None:
    with pytest.raises(ValueError, match="second_augment is of the second view of each image; set copies: pairs"):
        DataConfig(root="digits", second_augment="none")


@pytest.mark.parametrize(
    "settings",
    [
        {"second_augment": {"name": "crop_flip", "pad": 2}},
        {"second_augment": {**STRONG, "interpolation": "bicubic"}},
        {"second_augment": "none"},
        {"augment": {"name": "crop_flip", "erasing": 0.5}},
    ],
)
def test_on_the_device_it_is_the_first_with_parts_on_top(
    settings: dict[str, object], digits: tuple[DataSplits, DataConfig]
) -> None:
    data, config = digits
    with pytest.raises(UserError, match=r"augment_on: device cannot be: a second_augment there is data.augment with"):
        first_batch(data, config, **(PAIRS | {"augment_on": "device"} | settings))
