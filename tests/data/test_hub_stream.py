import io
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from helpers.images import jpeg_bytes
from understudy.core.batch import Batch
from understudy.data import DataConfig, DataSplits, open_data
from understudy.data.augment.config import CropFlip, NoAugment
from understudy.data.augment.crops import Rendering
from understudy.data.loaders.hub import HubEvalLoader, HubTrainLoader
from understudy.data.loaders.plan import EpochPlan, Share
from understudy.data.sources.hub_stream import HubStream
from understudy.utils.errors import UserError

FEATURES = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))


def write(root: Path, *, bad: int | None = None, **counts: int) -> Path:
    """A folder of parquet files; image i of a split is of the colour 10 i, and of class i modulo 2."""
    root.mkdir(exist_ok=True)
    for split, count in counts.items():
        cells = []
        for i in range(count):
            file = io.BytesIO()
            Image.new("RGB", (8, 8), (10 * i, 0, 0)).save(file, "PNG")
            cells.append({"bytes": file.getvalue() if i != bad else jpeg_bytes(0)[:50], "path": f"{i}.png"})
        columns = {"image": cells, "label": [i % 2 for i in range(count)]}
        datasets.Dataset.from_dict(columns, features=FEATURES).to_parquet(root / f"{split}.parquet")
    return root


def settings(root: Path, **more: object) -> DataConfig:
    return DataConfig(root=str(root), streaming=True, batch_size=4, workers=0, **more)


def train_loader(data: DataSplits, config: DataConfig, share: Share | None = None, seed: int = 0) -> HubTrainLoader:
    assert isinstance(data.train, HubStream)
    plan = EpochPlan.of(len(data.train), config, seed=seed, share=share or Share())
    return HubTrainLoader(data.train, config, Rendering(CropFlip(pad=2), 8), plan, device=torch.device("cpu"))


def epoch(config: DataConfig, number: int = 1, start_step: int = 0, **more: object) -> list[Batch]:
    return list(train_loader(open_data(config), config, **more).epoch(number, start_step))  # type: ignore[arg-type]


def all_equal(one: list[Batch], other: list[Batch]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) for a, b in pairs)


def test_epoch_shows_every_image_of_the_stream_once_without_numbers(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", train=10, val=3)
    batches = epoch(settings(root))
    assert [len(batch.images) for batch in batches] == [4, 4, 2]
    assert all(batch.indices is None for batch in batches)
    colours = torch.cat([batch.images.amax((1, 2, 3)) for batch in batches]) * 255
    assert sorted(colours.round().int().tolist()) == list(range(0, 100, 10))
    labels = torch.cat([batch.targets for batch in batches])
    assert torch.equal(labels, colours.round().int() // 10 % 2)


def test_stream_is_a_function_of_seed_and_epoch_whatever_the_workers(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", train=10, val=3)
    first = epoch(settings(root))
    assert all_equal(first, epoch(settings(root)))
    assert all_equal(first, epoch(settings(root).model_copy(update={"workers": 2})))
    assert not all_equal(first, epoch(settings(root), 2))
    assert not all_equal(first, epoch(settings(root), seed=1))


def test_start_in_the_middle_gives_the_batches_that_follow(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", train=10, val=3)
    assert all_equal(epoch(settings(root), 2, start_step=1), epoch(settings(root), 2)[1:])


def test_shares_of_two_processes_are_the_batches_of_one(tmp_path: Path) -> None:
    config = settings(write(tmp_path / "pets", train=10, val=3))
    shares = [epoch(config, share=Share(rank, 2)) for rank in (0, 1)]
    images = [torch.cat([one.images, other.images]) for one, other in zip(*shares, strict=True)]
    assert all(torch.equal(batch.images, both) for batch, both in zip(epoch(config), images, strict=True))


def test_unreadable_image_gives_way_to_the_next_of_its_batch_and_is_named(tmp_path: Path) -> None:
    config = settings(write(tmp_path / "pets", bad=3, train=8, val=3))
    loader = train_loader(open_data(config), config)
    assert [len(batch.images) for batch in loader.epoch(1)] == [4, 4]
    assert len(loader.skipped) == 1
    assert "of the train stream: " in loader.skipped[0]
    with pytest.raises(UserError, match=r"1 image cannot be read: image . of epoch 1 of the train stream"):
        epoch(config.model_copy(update={"on_bad_image": "stop"}))


def test_evaluation_shows_the_stream_in_its_order_without_unreadable_images(tmp_path: Path) -> None:
    config = settings(write(tmp_path / "pets", bad=1, train=4, val=6), eval_batch_size=4)
    val = open_data(config).val
    assert isinstance(val, HubStream)
    loader = HubEvalLoader(val, config, Rendering(NoAugment(), 8), Share(), device=torch.device("cpu"))
    batches = list(loader)
    assert (len(loader), [len(batch.images) for batch in batches]) == (2, [3, 2])
    assert torch.cat([batch.targets for batch in batches]).tolist() == [0, 0, 1, 0, 1]
    assert loader.skipped[0].startswith("image 1 of the val stream: ")


def test_stream_says_what_it_gives_up(tmp_path: Path) -> None:
    data = open_data(settings(write(tmp_path / "pets", train=4, val=3)))
    assert (data.classes, data.val_origin, len(data.train), len(data.val)) == (("cat", "dog"), "val split", 4, 3)
    assert "no bank" in data.notes[0]
    with pytest.raises(UserError, match=r"image 3000 of a stream cannot be asked for by its number"):
        data.train.image(3000)


def test_rows_of_a_stream_may_validate(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", train=10)
    data = open_data(settings(root, train_rows="3:", val_rows=":3"))
    assert (len(data.train), len(data.val), data.val_origin) == (7, 3, "rows :3 of train")
    assert [int(data.val.image(i)[0, 0, 0]) for i in range(3)] == [0, 10, 20]
    with pytest.raises(UserError, match=r"data\.train_rows : and data\.val_rows :3 share rows; name both"):
        open_data(settings(root, val_rows=":3"))


def test_stream_without_val_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no val split, and none can be held out by class of images that are not"):
        open_data(settings(write(tmp_path / "pets", train=4)))


def test_stream_that_ends_early_says_where(tmp_path: Path) -> None:
    config = settings(write(tmp_path / "pets", train=6, val=3), train_rows="0:20")
    with pytest.raises(UserError, match=r"the train stream ended after 6 of 20 images; set data\.train_rows=0:6"):
        epoch(config)
