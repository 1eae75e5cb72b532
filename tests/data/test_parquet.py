from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from helpers.images import jpeg_bytes
from understudy.data import DataConfig, dataset_splits, open_data
from understudy.utils.errors import UserError


def write(path: Path, labels: list[Any], **columns: list[Any]) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    images = [{"bytes": jpeg_bytes(i), "path": f"{i}.jpg"} for i in range(len(labels))]
    pq.write_table(pa.table({"image": images, "label": labels, **columns}), path)


def hugging_face_rows() -> datasets.Dataset:
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(10)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["tabby", "beagle"]))
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1] * 5}, features=features)


def test_files_of_hugging_face_datasets_are_read_with_their_class_names(tmp_path: Path) -> None:
    rows = hugging_face_rows()
    rows.to_parquet(tmp_path / "data/train-00000-of-00002.parquet")
    rows.to_parquet(tmp_path / "data/train-00001-of-00002.parquet")
    rows.to_parquet(tmp_path / "data/validation-00000-of-00001.parquet")
    data = open_data(DataConfig(root=str(tmp_path)))
    assert (data.classes, data.val_origin) == (("tabby", "beagle"), "val split")
    assert data.train.labels.tolist() == [0, 1] * 10
    assert data.train.image(13)[0].unique().tolist() == [3]


def test_hugging_face_data_set_in_memory_is_read_without_a_file() -> None:
    data = dataset_splits(hugging_face_rows(), classes=["tabby", "beagle"])
    assert (len(data.train), len(data.val), data.classes) == (8, 2, ("tabby", "beagle"))


def test_single_file_is_split_by_seed(tmp_path: Path) -> None:
    write(tmp_path / "mine.parquet", [0, 1] * 10)
    data = open_data(DataConfig(root=str(tmp_path / "mine.parquet")))
    assert (data.name, data.classes, data.val_origin) == ("mine", ("0", "1"), "held out by seed 0")
    assert torch.bincount(data.val.labels).tolist() == [2, 2]


def test_labels_may_be_strings(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", ["dog", "cat", "dog"])
    write(tmp_path / "val.parquet", ["dog"])
    data = open_data(DataConfig(root=str(tmp_path)))
    assert (data.classes, data.train.labels.tolist(), data.val.labels.tolist()) == (("cat", "dog"), [1, 0, 1], [1])


def test_string_class_in_val_that_train_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", ["dog", "cat"])
    write(tmp_path / "val.parquet", ["cow"])
    with pytest.raises(UserError, match="val has classes that train lacks: cow"):
        open_data(DataConfig(root=str(tmp_path)))


def test_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": [b""], "kind": [0], "other": [b""]}), tmp_path / "train.parquet")
    several = (
        r"no column 'image'; it has: img, kind, other \(img and other could both be meant\); set data\.image_column"
    )
    with pytest.raises(UserError, match=several):
        open_data(DataConfig(root=str(tmp_path)))
    with pytest.raises(UserError, match=r"no column 'label'; it has: img, kind, other; set data\.label_column"):
        open_data(DataConfig(root=str(tmp_path), image_column="img"))
    with pytest.raises(UserError, match=r"no column 'imge'; it has: img, kind, other; set data\.image_column"):
        open_data(DataConfig(root=str(tmp_path), image_column="imge"))


def write_shards(folder: Path, *columns: dict[str, Any]) -> str:
    """train-0.parquet, train-1.parquet and so on, of one image for each label."""
    for number, shard in enumerate(columns):
        count = len(next(iter(shard.values())))
        images = [{"bytes": jpeg_bytes(i), "path": f"{i}.jpg"} for i in range(count)]
        pq.write_table(pa.table({"image": images} | shard), folder / f"train-{number}.parquet")
    return str(folder)


@pytest.mark.parametrize("free", [1 << 30, 0])
def test_shards_may_differ_in_the_width_of_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr("understudy.data.sources.parquet.free_memory_bytes", lambda: free)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    widths = (pa.int8(), pa.int64(), pa.uint16())
    shards = [{"label": pa.array([0, 300 * (width != pa.int8())], width)} for width in widths]
    data = open_data(DataConfig(root=write_shards(tmp_path, *shards), val_rows="0:1"))
    assert data.train.labels.tolist() == [0, 0, 300, 0, 300]
    assert torch.equal(data.train.image(0), data.train.image(4))


@pytest.mark.parametrize("free", [1 << 30, 0])
def test_shards_may_differ_in_the_order_of_their_columns_and_the_width_of_their_strings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr("understudy.data.sources.parquet.free_memory_bytes", lambda: free)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    text = [pa.array(["cat"], pa.string()), pa.array(["dog"], pa.large_string())]
    root = write_shards(tmp_path, *({"label": labels} for labels in text))
    pq.write_table(pq.read_table(tmp_path / "train-1.parquet").select(["label", "image"]), tmp_path / "train-1.parquet")
    data = open_data(DataConfig(root=root, val_rows="0:1"))
    assert (data.classes, data.train.labels.tolist()) == (("cat", "dog"), [1])
    assert torch.equal(data.train.image(0), data.val.image(0))


def test_shards_with_columns_of_other_names_are_named(tmp_path: Path) -> None:
    root = write_shards(tmp_path, {"label": [0, 1]}, {"class_label": [0, 1]})
    with pytest.raises(
        UserError,
        match=r"train-1\.parquet has the columns image and class_label, but .*train-0\.parquet image and label; "
        "the files of one split need the same",
    ):
        open_data(DataConfig(root=root))


@pytest.mark.parametrize(("labels", "kind"), [(["cat", "dog"], "string"), ([0.0, None], "double")])
def test_shards_with_labels_of_two_kinds_are_named(tmp_path: Path, labels: list[Any], kind: str) -> None:
    root = write_shards(tmp_path, {"label": [0, 1]}, {"label": labels})
    with pytest.raises(
        UserError, match=rf"column 'label' holds {kind} in .*train-1\.parquet, but int64 in .*train-0\.parquet; .* same"
    ):
        open_data(DataConfig(root=root))


def test_shards_with_images_of_two_kinds_are_named(tmp_path: Path) -> None:
    root = write_shards(tmp_path, {"label": [0]})
    pq.write_table(pa.table({"image": [jpeg_bytes(0)], "label": [0]}), tmp_path / "train-1.parquet")
    with pytest.raises(UserError, match=r"train-1\.parquet does not go with .*train-0\.parquet: .*image.* struct"):
        open_data(DataConfig(root=root))


def test_shards_with_other_class_names_are_named(tmp_path: Path) -> None:
    for number, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
        rows = {"image": [Image.new("RGB", (8, 8))] * 2, "label": [0, 1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"train-{number}.parquet")
    with pytest.raises(
        UserError, match=r"train-1\.parquet calls class 0 'dog', but .*train-0\.parquet 'cat'; the files"
    ):
        open_data(DataConfig(root=str(tmp_path)))


def test_cifar_100_of_the_hub_is_read_without_naming_its_columns(tmp_path: Path) -> None:
    features = datasets.Features(
        img=datasets.Image(),
        fine_label=datasets.ClassLabel(names=["apple", "beaver", "bed"]),
        coarse_label=datasets.ClassLabel(names=["fruit", "animals"]),
    )
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3)]
    rows = {"img": images, "fine_label": [2, 0, 1], "coarse_label": [0, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    data = open_data(DataConfig(root=str(tmp_path), val_rows="2:3"))
    assert (data.classes, data.train.labels.tolist()) == (("apple", "beaver", "bed"), [2, 0])


def test_columns_without_metadata_are_known_by_what_they_hold(tmp_path: Path) -> None:
    table = pa.table({"id": [7, 8], "picture": [jpeg_bytes(0), jpeg_bytes(1)], "class_name": ["dog", "cat"]})
    pq.write_table(table, tmp_path / "train.parquet")
    data = open_data(DataConfig(root=str(tmp_path), val_rows="1:2"))
    assert (data.classes, data.train.labels.tolist()) == (("cat", "dog"), [1])


def test_class_numbers_of_val_follow_its_own_names(tmp_path: Path) -> None:
    for split, names in (("train", ["cat", "dog", "cow"]), ("val", ["dog", "cat"])):
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
        images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(2)]
        rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1]}, features=features)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    assert open_data(DataConfig(root=str(tmp_path))).val.labels.tolist() == [1, 0]


def test_test_split_without_labels_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1] * 5)
    write(tmp_path / "test.parquet", [-1, -1])
    data = open_data(DataConfig(root=str(tmp_path)))
    assert data.test is None
    assert f"the test split of {tmp_path.name} has no labels and is left out" in data.notes


def test_folder_that_is_called_like_a_file_is_no_file(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1] * 5)
    (tmp_path / "old.parquet").mkdir()
    assert len(open_data(DataConfig(root=str(tmp_path))).train) == 8


def test_split_without_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1])
    pq.write_table(pq.read_table(tmp_path / "train.parquet").slice(0, 0), tmp_path / "val.parquet")
    with pytest.raises(UserError, match=r"the val split of .* is empty"):
        open_data(DataConfig(root=str(tmp_path)))


def test_columns_of_other_names_are_read_when_named(tmp_path: Path) -> None:
    table = pa.table({"img": [jpeg_bytes(i) for i in range(4)], "fine_label": [0, 1, 0, 1]})
    pq.write_table(table, tmp_path / "train.parquet")
    config = DataConfig(root=str(tmp_path), image_column="img", label_column="fine_label", val_rows="2:4")
    assert open_data(config).train.labels.tolist() == [0, 1]


def test_label_outside_the_range_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1, 1])
    write(tmp_path / "val.parquet", [0, 7])
    with pytest.raises(UserError, match=r"val, 'label': label 7 of row 1 is outside 0\.\.1 \(2 classes; 1 such rows\)"):
        open_data(DataConfig(root=str(tmp_path)))
    write(tmp_path / "train.parquet", [0, -1, 1])
    with pytest.raises(UserError, match=r"train, 'label': label -1 of row 1 is outside 0\.\.1"):
        open_data(DataConfig(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("labels", "text"),
    [([0, None], "1 rows of train have no label"), ([0.5, 1.0], "holds double; labels are whole numbers or strings")],
)
def test_labels_of_another_kind_are_refused(tmp_path: Path, labels: list[Any], text: str) -> None:
    write(tmp_path / "train.parquet", labels)
    with pytest.raises(UserError, match=text):
        open_data(DataConfig(root=str(tmp_path)))


def test_damaged_row_is_skipped_and_named(tmp_path: Path) -> None:
    images = [{"bytes": jpeg_bytes(i) if i else b"no", "path": f"{i}.jpg"} for i in range(4)]
    pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), tmp_path / "train.parquet")
    data = open_data(DataConfig(root=str(tmp_path), val_rows="3:4"))
    assert len(data.train) == 2
    assert data.notes[0].startswith("1 image cannot be read: row 0 of train (0.jpg): cannot identify image file")


def test_images_beside_the_file_are_found_by_path(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(0))
    images = [{"bytes": None, "path": "a.jpg"}] * 2 + [{"bytes": None, "path": "b.jpg"}]
    pq.write_table(pa.table({"image": images, "label": [0, 0, 0]}), tmp_path / "train.parquet")
    data = open_data(DataConfig(root=str(tmp_path), val_rows="0:1"))
    assert len(data.train) == 1
    assert "row 2 of train (b.jpg): b.jpg: No such file" in data.notes[0]


def test_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match=r"train\.parquet is no parquet file: "):
        open_data(DataConfig(root=str(tmp_path)))


def test_folder_without_a_train_file_says_what_there_is(tmp_path: Path) -> None:
    write(tmp_path / "val.parquet", [0])
    write(tmp_path / "test.parquet", [0])
    with pytest.raises(UserError, match=r"no train\.parquet or train-\*\.parquet; it has: test\.parquet, val\.parquet"):
        open_data(DataConfig(root=str(tmp_path)))


def test_files_larger_than_memory_are_mapped_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train-0.parquet", [0, 1, 0], other=[1, 2, 3])
    write(tmp_path / "train-1.parquet", [1, 1, 1], other=[1, 2, 3])
    config = DataConfig(root=str(tmp_path), val_rows="4:5")
    in_memory = open_data(config)
    monkeypatch.setattr("understudy.data.sources.parquet.free_memory_bytes", lambda: 0)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    mapped = open_data(config)
    assert list((tmp_path / "cache").rglob("*.arrow"))
    assert torch.equal(mapped.train.labels, in_memory.train.labels)
    assert all(torch.equal(mapped.train.image(i), in_memory.train.image(i)) for i in range(5))


def test_real_photographs_have_their_published_statistics(shared_cifar: Path) -> None:
    data = open_data(DataConfig(root=str(shared_cifar), val="test"))
    assert (len(data.train), len(data.val), data.val_origin, data.native_size) == (500, 200, "test split", 32)
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    assert data.mean == pytest.approx((0.4925, 0.481, 0.4451), abs=1e-4)
    assert data.std == pytest.approx((0.2426, 0.2423, 0.2589), abs=1e-4)
