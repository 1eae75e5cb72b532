"""Masks in colours, in COCO's panoptic form, in columns of tables, and the test split of Cityscapes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.masks import masks_folder, save_mask, write_pairs
from understudy import UserError
from understudy.data import DataSplits, open_data
from understudy.data.config import DataConfig
from understudy.data.sources.mask_classes import classes_in
from understudy.data.sources.masked import mask_of

NAMES = ("background", "disc", "square", "triangle")
COLOURS = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=np.uint8)
VOID = (255, 255, 255)


def opened(root: object, **settings: object) -> DataSplits:
    return open_data(DataConfig.read({"root": str(root), "workers": 0, **settings}, what="the test's data"))


def in_colours(root: Path) -> list[torch.Tensor]:
    """A folder of masks drawn anew in COLOURS; the masks as they were."""
    masks_folder(root)
    plain = opened(root)
    masks = [mask_of(plain.train, i).clone() for i in range(len(plain.train))]
    table = np.full((256, 3), 255, dtype=np.uint8)
    table[:4] = COLOURS
    for file in (root / "masks").rglob("*.png"):
        Image.fromarray(table[np.asarray(Image.open(file))]).save(file)
    (root / "classes.txt").unlink()
    return masks


@pytest.mark.parametrize("form", ["json", "csv", "txt"])
def test_colours_are_classes_by_a_table(form: str, tmp_path: Path) -> None:
    masks = in_colours(tmp_path)
    rows = [*zip(NAMES, COLOURS.tolist(), strict=True), ("Void", list(VOID))]
    if form == "json":
        entries = [{"name": name, "color": colour} for name, colour in rows]
        (tmp_path / "classes.json").write_text(json.dumps({"classes": entries}))
    elif form == "csv":
        lines = [", ".join([name, *map(str, colour)]) for name, colour in rows]
        (tmp_path / "class_dict.csv").write_text("\n".join(["name, r, g, b", *lines]))
    else:
        lines = [" ".join([*map(str, colour), name]) for name, colour in rows]
        (tmp_path / "label_colors.txt").write_text("\n".join(lines))
    data = opened(tmp_path)
    assert data.classes == NAMES
    assert all(torch.equal(mask_of(data.train, i), mask) for i, mask in enumerate(masks))


def test_colours_that_stand_for_nothing_are_named(tmp_path: Path) -> None:
    in_colours(tmp_path)
    entries = [{"name": name, "color": colour} for name, colour in zip(NAMES, COLOURS.tolist(), strict=True)]
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"1 colours of the mask stand for no class, such as \(255, 255, 255\)"):
        opened(tmp_path)


def test_greys_that_were_saved_in_colours_are_numbers(tmp_path: Path) -> None:
    masks_folder(tmp_path)
    before = mask_of(opened(tmp_path).train, 0)
    for file in (tmp_path / "masks").rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    assert torch.equal(mask_of(opened(tmp_path).train, 0), before)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '[{"name": "a", "color": [1, 2, 3]}, {"name": "b"}]', "b has no colour, and others have"),
        ("a.txt", "1 2 3 a\n1 2 3 b", r"the colour \(1, 2, 3\) stands for two classes"),
        ("a.json", '[{"name": "a", "color": [1, 2, 300]}]', "three numbers from 0 to 255"),
        ("a.json", '[{"name": "a", "color": "red"}]', "no names of classes can be read"),
        ("a.csv", "title,r\nroad,3", "its header is to name columns name, r, g and b"),
    ],
)
def test_tables_of_no_use_are_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        classes_in(tmp_path / name)


def panoptic(root: Path, *, count: int = 3) -> Path:
    """COCO's layout: images of two halves, of categories 7 and 3, and a strip that is no segment."""
    for split in ("train2017", "val2017"):
        for folder in (root / "images" / split, root / "annotations" / f"panoptic_{split}"):
            folder.mkdir(parents=True)
        numbers = np.full((8, 12), 70_000)
        numbers[:, 6:], numbers[:2] = 300, 0
        values = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1)
        segments = [{"id": 70_000, "category_id": 7}, {"id": 300, "category_id": 3}]
        for number in range(count):
            Image.new("RGB", (12, 8)).save(root / f"images/{split}/{number}.jpg")
            save_rgb(root / f"annotations/panoptic_{split}/{number}.png", values)
        content = {
            "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(count)],
            "annotations": [
                {"image_id": number, "file_name": f"{number}.png", "segments_info": segments} for number in range(count)
            ],
            "categories": [{"id": 7, "name": "sky"}, {"id": 3, "name": "road"}],
        }
        (root / f"annotations/panoptic_{split}.json").write_text(json.dumps(content))
    return root


def save_rgb(file: Path, values: Any) -> None:
    Image.fromarray(values.astype(np.uint8)).save(file)


def changed(root: Path, **parts: Any) -> Path:
    file = root / "annotations/panoptic_train2017.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **parts}))
    return root


class TestPanoptic:
    def test_pixels_have_the_class_of_their_segment(self, tmp_path: Path) -> None:
        data = opened(panoptic(tmp_path))
        assert (data.classes, len(data.train), len(data.val)) == (("road", "sky"), 3, 3)
        mask = mask_of(data.train, 1)
        assert (mask[:2] == 255).all()
        assert (mask[2:, :6] == 1).all()
        assert (mask[2:, 6:] == 0).all()

    def test_beside_boxes_they_are_asked_for_by_the_task(self, tmp_path: Path) -> None:
        from understudy import Recipe
        from understudy.runs.data_task import open_data_of

        panoptic(tmp_path)
        file = tmp_path / "annotations/panoptic_train2017.json"
        (tmp_path / "annotations/instances_train2017.json").write_text(file.read_text())
        recipe = Recipe.read(
            {"task": "segmentation", "data": {"root": str(tmp_path)}, "student": {"model": "fpn:resnet18"}}, what="it"
        )
        assert open_data_of(recipe).classes == ("road", "sky")

    @pytest.mark.parametrize(
        ("parts", "text"),
        [
            ({"categories": []}, "is no panoptic file of COCO's"),
            ({"images": [{"id": 9, "file_name": "9.jpg"}]}, "an annotation lacks, or names, what is not there"),
            ({"categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "a"}]}, "names of their own"),
            ({"categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}]}, "other categories than those of train"),
            ({"images": [{"id": n, "file_name": f"no{n}.jpg"} for n in range(3)]}, "3 images that are not below"),
            ({"images": [{"id": n, "file_name": f"../{n}.jpg"} for n in range(3)]}, "not a path below the folder"),
        ],
    )
    def test_damaged_files_are_refused_in_words(self, parts: Any, text: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=text):
            opened(changed(panoptic(tmp_path), **parts))

    def test_segments_that_are_not_listed(self, tmp_path: Path) -> None:
        panoptic(tmp_path)
        for number in range(3):
            save_rgb(tmp_path / f"annotations/panoptic_train2017/{number}.png", np.full((8, 12, 3), 9))
        with pytest.raises(UserError, match="holds 1 segment that the json does not list, such as 592137"):
            opened(tmp_path)


def tables(root: Path, *, columns: tuple[str, str] = ("image", "mask")) -> Path:
    """Parquet files with a column of images and one of masks."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    masks_folder(root / "files")
    for split in ("train", "val"):
        names = sorted(file.name for file in (root / "files/images" / split).iterdir())
        cells = [
            [{"bytes": (root / "files" / kind / split / name).read_bytes(), "path": name} for name in names]
            for kind in ("images", "masks")
        ]
        pq.write_table(pa.table(dict(zip(columns, cells, strict=True))), root / f"{split}.parquet")
    return root


class TestTables:
    @pytest.mark.parametrize("columns", [("image", "mask"), ("pixel_values", "label"), ("image", "annotation")])
    def test_a_second_column_of_images_holds_masks(self, columns: tuple[str, str], tmp_path: Path) -> None:
        data, files = opened(tables(tmp_path, columns=columns)), opened(tmp_path / "files")
        assert (len(data.train), len(data.val), data.classes[1]) == (6, 4, "class 1")
        assert all(torch.equal(mask_of(data.train, i), mask_of(files.train, i)) for i in range(6))
        assert data.train.image(3).equal(files.train.image(3))

    def test_names_lie_beside_them_and_a_mask_of_another_size_is_refused(self, tmp_path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (tables(tmp_path) / "classes.txt").write_text("\n".join(NAMES))
        assert opened(tmp_path).classes == NAMES
        small = io.BytesIO()
        Image.new("L", (4, 4)).save(small, format="PNG")
        table = pq.read_table(tmp_path / "train.parquet")
        cells = [{"bytes": small.getvalue(), "path": "small"}] * 6
        pq.write_table(pa.table({"image": table["image"], "mask": cells}), tmp_path / "train.parquet")
        with pytest.raises(UserError, match=r"row 0 of train .*has 32 x 32 pixels and its mask 4 x 4"):
            opened(tmp_path)

    @pytest.mark.slow
    def test_what_datasets_saved_is_read(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        files = masks_folder(tmp_path / "files")
        parts = {}
        for split in ("train", "val"):
            names = sorted(file.name for file in (files / "images" / split).iterdir())
            columns = {kind: [str(files / kind / split / name) for name in names] for kind in ("images", "masks")}
            one = datasets.Dataset.from_dict({"image": columns["images"], "annotation": columns["masks"]})
            parts[split] = one.cast_column("image", datasets.Image()).cast_column("annotation", datasets.Image())
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
        data = opened(tmp_path / "saved")
        assert torch.equal(mask_of(data.val, 2), mask_of(opened(files).val, 2))


def test_the_test_split_of_cityscapes_is_counted(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_pairs(tmp_path / f"leftImg8bit/{split}/ulm", tmp_path / f"gtFine/{split}/ulm", 2)
        for file in sorted((tmp_path / f"leftImg8bit/{split}/ulm").glob("0_?.png")):
            file.rename(file.with_name(f"{file.stem}_leftImg8bit.png"))
        for file in sorted((tmp_path / f"gtFine/{split}/ulm").glob("0_?.png")):
            save_mask(file.with_name(f"{file.stem}_gtFine_labelIds.png"), np.full((32, 32), 7))
            file.unlink()
    (tmp_path / "leftImg8bit/test/bonn").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "leftImg8bit/test/bonn/0_leftImg8bit.png")
    notes = opened(tmp_path).notes
    (said,) = (note for note in notes if note.startswith("test:"))
    assert said.startswith("test: 1 image whose masks are not published (left out; `understudy predict RUN")
