from __future__ import annotations

import torch

from understudy.data import DataConfig, open_data, train_loader
from understudy.data.copies import with_rotations
from understudy.step import Batch


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
