import pickle
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from understudy.data import DataConfig, open_data
from understudy.data.divide import held_out
from understudy.utils.errors import UserError


def test_digits_hold_out_the_same_share_of_every_class() -> None:
    data = open_data(DataConfig(root="digits", val_fraction=0.25))
    assert (len(data.train), len(data.val), data.test) == (1348, 449, None)
    counts = torch.bincount(data.val.labels)
    assert counts.max() - counts.min() <= 2
    assert (data.native_size, data.train.image(0).dtype, data.train.images.max()) == (8, torch.uint8, 255)
    assert data.mean == pytest.approx((0.3056,) * 3, abs=1e-3)


def test_another_split_seed_holds_out_others() -> None:
    first, again, other = (
        {tuple(image.flatten().tolist()) for image in open_data(DataConfig(root="digits", split_seed=seed)).val.images}
        for seed in (0, 0, 1)
    )
    assert first == again
    assert len(first & other) < 0.4 * len(first)


def test_held_out_and_kept_rows_are_all_rows_once() -> None:
    labels = torch.tensor([0] * 7 + [1] * 5 + [2])
    kept, held = held_out(labels, 0.3, seed=0)
    assert len(held) == 4
    assert torch.cat([kept, held]).sort().values.tolist() == list(range(13))
    assert 2 in labels[kept]  # the only image of its class stays in training


def test_rows_choose_from_the_training_split() -> None:
    whole = open_data(DataConfig(root="digits", train_rows="0:1796", val_rows="1796:1797"))
    some = open_data(DataConfig(root="digits", train_rows="100:103", val_rows="200:202"))
    rest = open_data(DataConfig(root="digits", val_rows=":1_000"))
    assert some.val_origin == "rows 200:202 of train"
    assert torch.equal(some.train.images, whole.train.images[100:103])
    assert torch.equal(some.val.images, whole.train.images[200:202])
    assert (len(rest.train), len(rest.val)) == (797, 1000)


def test_first_images_of_each_class_are_taken_in_stored_order() -> None:
    whole = open_data(DataConfig(root="digits", train_rows="0:1700", val_rows="1700:"))
    some = open_data(DataConfig(root="digits", train_rows="0:1700", val_rows="1700:", per_class=3))
    first = [i for label in range(10) for i in (whole.train.labels == label).nonzero().flatten()[:3].tolist()]
    assert torch.equal(some.train.images, whole.train.images[sorted(first)])
    assert torch.equal(some.val.images, whole.val.images)
    assert some.notes[0] == "train is the first 3 of each class: 30 of 1,700 images"


def test_class_with_fewer_images_gives_all_and_is_counted() -> None:
    data = open_data(DataConfig(root="digits", train_rows="0:45", val_rows="45:60", per_class=5))
    assert torch.bincount(data.train.labels).max() == 5
    assert data.notes[0].startswith("train is the first 5 of each class, or all where there are fewer (5 classes): ")


def test_fraction_is_the_same_share_of_each_class_and_leaves_val_alone() -> None:
    whole = open_data(DataConfig(root="digits"))
    some = open_data(DataConfig(root="digits", fraction=0.2))
    assert torch.equal(some.val.images, whole.val.images)
    shares = torch.bincount(some.train.labels) / torch.bincount(whole.train.labels)
    assert (shares - 0.2).abs().max() < 0.01
    assert some.notes[0] == "train is 20 % of each class, chosen by seed 0: 288 of 1,438 images"


def test_larger_fraction_holds_the_smaller_and_another_seed_takes_others() -> None:
    def chosen(**settings: object) -> set[tuple[int, ...]]:
        data = open_data(DataConfig(root="digits", train_rows="0:1700", val_rows="1700:", **settings))
        return {tuple(image.flatten().tolist()) for image in data.train.images}

    small, large, other = chosen(fraction=0.2), chosen(fraction=0.5), chosen(fraction=0.2, split_seed=1)
    assert small < large
    assert len(small & other) < 0.4 * len(small)


def test_rows_without_some_class_are_said() -> None:
    data = open_data(DataConfig(root="digits", train_rows="0:5", val_rows="5:9"))
    assert data.notes[0] == "train has no image of 5 of 10 classes: 5, 6, 7, 8, 9"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"train_rows": "0:2000"}, r"data\.train_rows: 0:2000 goes beyond the training split, which has rows 0:1797"),
        ({"val_rows": "1797:"}, r"data\.val_rows: 1797: goes beyond"),
        ({"train_rows": "0:100", "val_rows": "99:120"}, r"data\.train_rows 0:100 and data\.val_rows 99:120 share rows"),
        ({"val_rows": "0:1797"}, r"the train split of digits is empty \(rows 0:1797 of train, 1797 rows in train\)"),
        ({"train_rows": "0:3", "val_fraction": 0.01}, r"the val split of digits is empty \(held out by seed 0"),
        ({"val": "test"}, r"data\.val: test, but digits has no test split; leave data\.val at auto"),
    ],
)
def test_rows_that_cannot_be_had_are_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(UserError, match=text):
        open_data(DataConfig(root="digits", **settings))


def test_cifar_is_read_as_torchvision_stores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 256, (4, 3072), dtype=np.uint8)

    def stored(name: str, content: object) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, md5((folder / name).read_bytes()).hexdigest()

    # torchvision checks the sums of the true files; everything else of it runs.
    monkeypatch.setattr(CIFAR10, "train_list", [stored("data_batch_1", {"data": rows, "labels": [0, 1, 0, 1]})])
    monkeypatch.setattr(CIFAR10, "test_list", [stored("test_batch", {"data": rows[:2], "labels": [0, 1]})])
    name, checksum = stored("batches.meta", {"label_names": ["cat", "dog"]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})
    for root in (tmp_path, folder):
        data = open_data(DataConfig(root=str(root), val="test"))
        assert (data.name, data.classes, data.val_origin) == ("cifar10", ("cat", "dog"), "test split")
        assert np.array_equal(data.train.image(2).numpy(), rows[2].reshape(3, 32, 32))
        assert data.val is data.test


def test_incomplete_cifar_says_how_to_fetch_it(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(UserError, match=r"holds no whole cifar-100-python; torchvision\.datasets\.CIFAR100\("):
        open_data(DataConfig(root=str(tmp_path)))
