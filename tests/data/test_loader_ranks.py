"""Several processes share every batch, and the images of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.batch import Batch
from understudy.data import DataConfig, DataSplits, Share, eval_loader, open_data, train_loader
from understudy.data.loaders.plan import EpochPlan
from understudy.utils.errors import UserError

WriteTree = Callable[..., Path]


@pytest.fixture(params=["in memory", "streamed"])
def opened(request: pytest.FixtureRequest, write_tree: WriteTree) -> tuple[DataSplits, DataConfig]:
    if request.param == "in memory":
        config = DataConfig(root="digits", train_rows="0:23", val_rows="30:41", batch_size=7, eval_batch_size=4)
    else:
        root = write_tree({"train/cat": 11, "train/dog": 12, "val/cat": 5, "val/dog": 6}, size=(80, 70))
        config = DataConfig(root=str(root), batch_size=7, eval_batch_size=4, workers=0)
    return open_data(config), config


def epoch_of(data: DataSplits, config: DataConfig, rank: int = 0, world_size: int = 1) -> list[Batch]:
    loader = train_loader(data, config, seed=0, image_size=16, rank=rank, world_size=world_size)
    batches = list(loader.epoch(1))
    assert (len(batches), loader.num_samples, loader.batch_size) == (loader.steps_per_epoch, 23, 7)
    return batches


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_in_turn_are_all_rows_and_differ_by_one_at_most(count: int, world_size: int) -> None:
    parts = [Share(rank, world_size).of(range(3, 3 + count)) for rank in range(world_size)]
    assert [row for part in parts for row in part] == list(range(3, 3 + count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_no_process_has_a_step_without_rows(count: int, batch_size: int, world_size: int, drop_last: bool) -> None:
    config = DataConfig(root="x", batch_size=batch_size, drop_last=drop_last)
    try:
        plans = [EpochPlan.of(count, config, seed=0, share=Share(rank, world_size)) for rank in range(world_size)]
    except UserError:
        assert count < batch_size or batch_size < world_size or count < world_size
        return
    assert len({plan.num_steps for plan in plans}) == 1
    shown = 0
    for step in range(plans[0].num_steps):
        rows = [plan.rows(step) for plan in plans]
        assert all(rows)
        shown += sum(map(len, rows))
    assert count - shown < (batch_size if drop_last else world_size)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_in_turn_give_the_batches_of_one(opened: tuple[DataSplits, DataConfig], world_size: int) -> None:
    data, config = opened
    whole = epoch_of(data, config)
    parts = [epoch_of(data, config, rank, world_size) for rank in range(world_size)]
    sizes = {2: [(3, 4)] * 3 + [(1, 1)], 3: [(2, 2, 3)] * 3}[world_size]
    assert [tuple(len(batch.images) for batch in step) for step in zip(*parts, strict=True)] == sizes
    for batch, step in zip(whole, zip(*parts, strict=True), strict=world_size == 2):
        assert torch.equal(torch.cat([part.images for part in step]), batch.images)
        assert torch.equal(torch.cat([part.targets for part in step]), batch.targets)
        assert torch.equal(torch.cat([part.indices for part in step]), batch.indices)


def test_last_batch_with_fewer_rows_than_processes_is_left_out_everywhere(
    opened: tuple[DataSplits, DataConfig],
) -> None:
    data, config = opened  # 23 = 3 x 7 + 2
    assert [len(epoch_of(data, config, rank, 3)) for rank in range(3)] == [3, 3, 3]
    assert [len(epoch_of(data, config, rank, 2)) for rank in range(2)] == [4, 4]


def test_replacement_of_an_unreadable_image_is_the_same_for_any_number_of_processes(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 12, "val/cat": 2}, size=(70, 70))
    config = DataConfig(root=str(root), batch_size=6, workers=0)
    data = open_data(config)
    for bad in (3, 4, 9):
        (root / f"train/cat/{bad}.jpg").write_bytes(b"")

    def indices(rank: int = 0, world_size: int = 1) -> list[list[int]]:
        loader = train_loader(data, config, seed=2, image_size=16, rank=rank, world_size=world_size)
        return [batch.indices.tolist() for batch in loader.epoch(1)]

    parts = [indices(rank, 3) for rank in range(3)]
    whole = indices()
    assert [[index for part in step for index in part] for step in zip(*parts, strict=True)] == whole
    assert len({index for batch in whole for index in batch}) == 12 - 3


@pytest.mark.parametrize("world_size", [2, 4, 13])
def test_evaluation_is_divided_into_contiguous_parts(opened: tuple[DataSplits, DataConfig], world_size: int) -> None:
    data, config = opened
    (whole,) = eval_loader(data.val, config.model_copy(update={"eval_batch_size": 11}), image_size=16)
    parts = []
    for rank in range(world_size):
        loader = eval_loader(data.val, config, image_size=16, rank=rank, world_size=world_size)
        batches = list(loader)
        seen = [index for batch in batches for index in batch.indices.tolist()]
        assert seen == list(Share(rank, world_size).of(range(loader.num_samples)))
        assert len(loader) == len(batches)
        assert all(len(batch.images) <= 4 for batch in batches)
        parts += batches
    assert torch.equal(torch.cat([batch.images for batch in parts]), whole.images)
    assert torch.equal(torch.cat([batch.targets for batch in parts]), whole.targets)


def test_more_processes_than_rows_in_a_batch_are_refused(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    with pytest.raises(UserError, match=r"8 processes need a row each of every batch: 23 images, data\.batch_size 7"):
        train_loader(data, config, seed=0, image_size=16, rank=0, world_size=8)
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.1, got 2"):
        train_loader(data, config, seed=0, image_size=16, rank=2, world_size=2)
