from pathlib import Path

import datasets
import pytest
from PIL import Image

from understudy.data import DataConfig, open_data
from understudy.utils.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def rows(count: int, first: int = 0, names: tuple[str, ...] = ("tabby", "beagle")) -> datasets.Dataset:
    """Images of the colours first, first + 1, ... of two classes in turn."""
    images = [Image.new("RGB", (8, 8), (first + i, 0, 0)) for i in range(count)]
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=list(names)))
    return datasets.Dataset.from_dict({"img": images, "label": [i % 2 for i in range(count)]}, features=features)


def test_data_set_that_was_saved_to_disk_is_read(tmp_path: Path) -> None:
    splits = {"train": rows(10), "validation": rows(4, first=100), "extra": rows(2)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "pets")
    data = open_data(DataConfig(root=str(tmp_path / "pets")))
    assert (data.name, data.classes, data.val_origin) == ("pets", ("tabby", "beagle"), "val split")
    assert (len(data.train), len(data.val), data.test) == (10, 4, None)
    assert int(data.val.image(2)[0, 0, 0]) == 102


def test_saved_data_set_without_splits_is_divided_by_seed(tmp_path: Path) -> None:
    rows(20).save_to_disk(tmp_path / "pets")
    data = open_data(DataConfig(root=str(tmp_path / "pets")))
    assert (len(data.train), len(data.val), data.val_origin) == (16, 4, "held out by seed 0")


def test_shuffled_and_selected_rows_keep_image_and_label_together(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": rows(20).shuffle(seed=0).select(range(6)), "test": rows(2)}).save_to_disk(
        tmp_path / "a"
    )
    data = open_data(DataConfig(root=str(tmp_path / "a"), val="test"))
    colours = [int(data.train.image(i)[0, 0, 0]) for i in range(6)]
    assert sorted(colours) != colours
    assert [colour % 2 for colour in colours] == data.train.labels.tolist()


def test_folder_is_read_by_the_library_on_demand(tmp_path: Path) -> None:
    rows(8).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    rows(2).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    data = open_data(DataConfig(root=str(tmp_path), format="hub", val="test"))
    assert (len(data.train), len(data.val), data.classes) == (8, 2, ("tabby", "beagle"))


def test_name_that_the_hub_does_not_give_is_refused_with_the_reason() -> None:
    with pytest.raises(
        UserError, match=r"data\.root: hf:nobody/nothing cannot be had by the datasets library: .*nobody"
    ):
        open_data(DataConfig(root="hf:nobody/nothing"))


def test_splits_without_train_are_listed(tmp_path: Path) -> None:
    datasets.DatasetDict({"night": rows(2), "day": rows(2)}).save_to_disk(tmp_path / "pets")
    with pytest.raises(UserError, match=r"pets has no train split; it has: night, day"):
        open_data(DataConfig(root=str(tmp_path / "pets")))
