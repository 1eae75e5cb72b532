"""Both kinds of loader keep the same promises; what differs follows below them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from helpers.images import jpeg_bytes
from understudy.core.batch import Batch
from understudy.data import DataConfig, DataSplits, eval_loader, from_plain_loader, open_data, train_loader
from understudy.utils.errors import UserError

WriteTree = Callable[..., Path]


@pytest.fixture(params=["in memory", "streamed"])
def opened(request: pytest.FixtureRequest, write_tree: WriteTree) -> tuple[DataSplits, DataConfig]:
    if request.param == "in memory":
        config = DataConfig(root="digits", train_rows="0:23", val_rows="30:41", batch_size=5, eval_batch_size=4)
    else:
        counts = {"train/cat": 11, "train/dog": 12, "val/cat": 5, "val/dog": 6}
        root = write_tree(counts, size=(80, 70))
        config = DataConfig(root=str(root), batch_size=5, eval_batch_size=4, workers=0)
    return open_data(config), config


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


def test_epoch_shows_every_sample_once_with_its_label(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    loader = train_loader(data, config, seed=0, image_size=32)
    batches = list(loader.epoch(1))
    indices = torch.cat([batch.indices for batch in batches])
    assert (loader.batch_size, loader.num_samples, loader.steps_per_epoch) == (5, 23, 5)
    assert [len(batch.images) for batch in batches] == [5, 5, 5, 5, 3]
    assert indices.sort().values.tolist() == list(range(23))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), data.train.labels[indices])
    images = batches[0].images
    assert (images.dtype, images.shape) == (torch.float32, (5, 3, 32, 32))
    assert images.min() >= 0
    assert 0.5 < images.max() <= 1


def test_epochs_differ_and_repeat_from_the_seed(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    first, again, other = (train_loader(data, config, seed=seed, image_size=16) for seed in (0, 0, 1))
    assert same(list(first.epoch(2)), list(again.epoch(2)))
    assert not same(list(first.epoch(1)), list(first.epoch(2)))
    assert not same(list(first.epoch(1)), list(other.epoch(1)))


def test_start_step_continues_where_an_epoch_was_left(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    loader = train_loader(data, config, seed=0, image_size=16)
    assert same(list(loader.epoch(3))[2:], list(loader.epoch(3, start_step=2)))
    assert list(loader.epoch(3, start_step=5)) == []


def test_batch_size_does_not_change_what_a_sample_looks_like(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    small = list(train_loader(data, config, seed=0, image_size=16).epoch(1))
    other = config.model_copy(update={"batch_size": 23})
    (whole,) = train_loader(data, other, seed=0, image_size=16).epoch(1)
    assert torch.equal(torch.cat([batch.images for batch in small]), whole.images)


def test_views_come_round_while_the_order_goes_on(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    loader = train_loader(data, config, seed=0, image_size=16, num_views=2)
    by_index = []
    for epoch in (1, 2, 3):
        batches = list(loader.epoch(epoch))
        assert {batch.view for batch in batches} == {(epoch - 1) % 2}
        indices = torch.cat([batch.indices for batch in batches])
        by_index.append((indices, torch.cat([batch.images for batch in batches])[indices.argsort()]))
    assert torch.equal(by_index[0][1], by_index[2][1])
    assert not torch.equal(by_index[0][0], by_index[2][0])
    assert not torch.equal(by_index[0][1], by_index[1][1])


def test_teacher_images_come_only_where_the_size_differs(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    equal = next(train_loader(data, config, seed=0, image_size=16, teacher_size=16).epoch(1))
    larger = next(train_loader(data, config, seed=0, image_size=16, teacher_size=32).epoch(1))
    assert equal.teacher_images is None
    assert larger.teacher_images is not None
    assert larger.teacher_images.shape == (5, 3, 32, 32)
    assert torch.equal(equal.images, larger.images)
    difference = torch.nn.functional.avg_pool2d(larger.teacher_images, 2) - larger.images
    assert difference.abs().mean() < 0.05


def test_drop_last_keeps_whole_batches_only(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    loader = train_loader(data, config.model_copy(update={"drop_last": True}), seed=0, image_size=16)
    assert [len(batch.images) for batch in loader.epoch(1)] == [5] * 4
    with pytest.raises(UserError, match=r"data\.drop_last leaves no batch: 23 images, data\.batch_size 24"):
        train_loader(data, config.model_copy(update={"drop_last": True, "batch_size": 24}), seed=0, image_size=16)


def test_evaluation_keeps_the_stored_order(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    loader = eval_loader(data.val, config, image_size=32, teacher_size=24)
    batches = list(loader)
    assert (len(loader), loader.num_samples) == (3, 11)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(11))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), data.val.labels)
    assert same(batches, list(loader))
    assert batches[0].teacher_images is not None
    assert batches[0].teacher_images.shape == (4, 3, 24, 24)


def test_loading_leaves_the_global_generator_alone(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(train_loader(data, config, seed=0, image_size=16).epoch(1))
    list(eval_loader(data.val, config, image_size=16))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_shows_small_images_as_they_are() -> None:
    config = DataConfig(root="digits", val_rows="0:7")
    data = open_data(config)
    (batch,) = eval_loader(data.val, config, image_size=8)
    assert torch.equal(batch.images, data.val.images / 255)


def test_padding_is_black_before_any_normalisation(shared_cifar: Path) -> None:
    data = open_data(DataConfig(root=str(shared_cifar)))
    batch = next(train_loader(data, DataConfig(root="x"), seed=0, image_size=32).epoch(1))
    corners = batch.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].amax(dim=1)  # (B,4) brightest channel of each corner
    assert (corners == 0).any(dim=1).float().mean() > 0.8


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_number_of_workers_does_not_change_a_pixel(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 9, "train/dog": 8, "val/cat": 2}, size=(70, 90))
    runs = []
    for workers in (0, 1, 4):
        config = DataConfig(root=str(root), batch_size=4, workers=workers)
        loader = train_loader(open_data(config), config, seed=5, image_size=24, teacher_size=32)
        runs.append([*loader.epoch(1), *loader.epoch(2, start_step=1)])
    assert len(runs[0]) == 5 + 4
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    assert all(torch.equal(a.teacher_images, b.teacher_images) for a, b in zip(runs[0], runs[2], strict=True))


def test_epoch_left_in_the_middle_does_not_disturb_the_next(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 8, "val/cat": 2}, size=(70, 70))
    config = DataConfig(root=str(root), batch_size=2, workers=1)
    loader = train_loader(open_data(config), config, seed=0, image_size=16)
    next(loader.epoch(1))
    left_before = list(loader.epoch(2))
    assert same(left_before, list(train_loader(open_data(config), config, seed=0, image_size=16).epoch(2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_gives_way_to_the_next_of_the_order(write_tree: WriteTree, workers: int) -> None:
    root = write_tree({"train/cat": 8, "val/cat": 2}, size=(70, 70))
    config = DataConfig(root=str(root), batch_size=3, workers=workers)
    data = open_data(config)
    (root / "train/cat/5.jpg").write_bytes(jpeg_bytes(5, (70, 70))[:-300])
    loader = train_loader(data, config, seed=0, image_size=16)
    batches = list(loader.epoch(1))
    assert [len(batch.images) for batch in batches] == [3, 3, 2]
    counts = torch.bincount(torch.cat([batch.indices for batch in batches]), minlength=8)
    assert counts[5] == 0
    assert sorted(counts.tolist()) == [0, 1, 1, 1, 1, 1, 1, 2]
    list(loader.epoch(2))
    assert len(loader.skipped) == 1
    assert loader.skipped[0].startswith("train/cat/5.jpg: ")


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_stops_on_demand_with_its_name_alone(write_tree: WriteTree, workers: int) -> None:
    root = write_tree({"train/cat": 4, "val/cat": 2}, size=(70, 70))
    config = DataConfig(root=str(root), workers=workers, on_bad_image="stop")
    data = open_data(config)
    (root / "train/cat/3.jpg").unlink()
    with pytest.raises(UserError, match=r"^1 image cannot be read: train/cat/3\.jpg: No such file.*; take them away"):
        list(train_loader(data, config, seed=0, image_size=16).epoch(1))


def test_nothing_readable_is_an_error_not_an_endless_search(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "val/cat": 2}, size=(70, 70))
    config = DataConfig(root=str(root), workers=0)
    data = open_data(config)
    for path in (root / "train/cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 3 training images can be read: train/cat/\d\.jpg: is empty"):
        list(train_loader(data, config, seed=0, image_size=16).epoch(1))


def test_unreadable_image_is_left_out_of_evaluation(write_tree: WriteTree) -> None:
    root = write_tree({"train/cat": 3, "val/cat": 3}, size=(70, 70))
    config = DataConfig(root=str(root), workers=0)
    data = open_data(config)
    (root / "val/cat/1.jpg").write_bytes(b"")
    (batch,) = eval_loader(data.val, config, image_size=16)
    assert batch.indices is not None
    assert batch.indices.tolist() == [0, 2]


def test_stream_is_loaded_without_numbers_and_can_be_mixed(tmp_path: Path) -> None:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    for split, count in {"train": 8, "val": 5}.items():
        cells = [{"bytes": jpeg_bytes(i, (70, 70)), "path": f"{i}.jpg"} for i in range(count)]
        columns = {"image": cells, "label": [i % 2 for i in range(count)]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / f"{split}.parquet")
    config = DataConfig(root=str(tmp_path), streaming=True, batch_size=3, eval_batch_size=4, workers=0, mix={})
    data = open_data(config)
    batches = list(train_loader(data, config, seed=0, image_size=16).epoch(1))
    assert [(batch.images.shape, batch.targets.shape) for batch in batches] == [
        ((count, 3, 16, 16), (count, 2)) for count in (3, 3, 2)
    ]
    assert batches[0].indices is None
    shown = list(eval_loader(data.val, config, image_size=16))
    assert torch.cat([batch.targets for batch in shown]).tolist() == [0, 1, 0, 1, 0]


def test_plain_loader_gives_batches_without_indices() -> None:
    plain = DataLoader(TensorDataset(torch.rand(10, 3, 4, 4), torch.arange(10)), batch_size=4)
    loader = from_plain_loader(plain)
    assert (loader.batch_size, loader.steps_per_epoch, loader.num_samples) == (4, 3, 10)
    first, *rest = loader.epoch(2)
    assert (first.indices, first.view, first.targets.tolist()) == (None, 1, [0, 1, 2, 3])
    assert same_images(rest, list(loader.epoch(2, start_step=1)))
    assert [len(batch.images) for batch in loader] == [4, 4, 2]


def test_plain_loader_without_a_length_is_refused() -> None:
    with pytest.raises(UserError, match="a plain loader needs a length"):
        from_plain_loader(iter([]))


def same_images(first: list[Batch], second: list[Batch]) -> bool:
    return [batch.images.tolist() for batch in first] == [batch.images.tolist() for batch in second]


def test_repeats_show_several_views_of_a_sample_in_a_row(opened: tuple[DataSplits, DataConfig]) -> None:
    data, config = opened
    config = config.model_copy(update={"repeats": 3, "batch_size": 6})
    loader = train_loader(data, config, seed=0, image_size=16)
    batches = list(loader.epoch(1))
    indices = torch.cat([batch.indices for batch in batches])
    assert [len(batch.images) for batch in batches] == [6, 6, 6, 5]  # as many images as without
    assert torch.equal(indices[:21].view(7, 3), indices[:21:3, None].expand(7, 3))
    assert len(set(indices.tolist())) == 8
    assert torch.equal(torch.cat([batch.targets for batch in batches]), data.train.labels[indices])
    assert all(batch.copies is None for batch in batches)  # each of them is a sample with its label
    shown = torch.cat([batch.images for batch in batches])[:21].view(7, 3, -1)
    assert (shown[:, 0] != shown[:, 1]).any()
    assert (shown[:, 1] != shown[:, 2]).any()
    assert same(batches[2:], list(loader.epoch(1, start_step=2)))
    assert torch.equal(shown[:, 0], torch.stack([_plain_view(data, config, index) for index in indices[:21:3]]))


def _plain_view(data: DataSplits, config: DataConfig, index: torch.Tensor) -> torch.Tensor:
    """What the first epoch shows of a sample without repeats."""
    plain = config.model_copy(update={"repeats": 1, "batch_size": 23})
    (whole,) = train_loader(data, plain, seed=0, image_size=16).epoch(1)
    return whole.images[(whole.indices == index).nonzero().item()].flatten()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"copies": "pairs", "repeats": 2}, "repeats and copies: pairs both show a sample several times"),
        ({"batch_size": 2, "repeats": 3}, "repeats: 3 views of a sample do not fit a batch_size of 2"),
        ({"root": "hf:digits", "streaming": True, "repeats": 3}, "cannot go with repeats: 3"),
    ],
)
def test_repeats_that_cannot_be_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        DataConfig.read({"root": "digits", **settings}, what="data")
