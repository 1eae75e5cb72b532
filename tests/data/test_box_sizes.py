"""Boxes that are for images of another size: by EXIF, or because they belong to other images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from understudy.data import DataConfig, DataSplits, open_data
from understudy.data.augment.boxes import box_rendering
from understudy.data.loaders.boxes import BoxEvalLoader
from understudy.data.sources.boxed import boxes_of_image, size_of_boxed
from understudy.utils.errors import UserError

WIDTH, HEIGHT = 40, 20  # as stored; upright it is 20 x 40, a red square at its upper left
TURNED = Image.Exif()
TURNED[0x0112] = 6  # shown turned by 90 degrees, clockwise


def picture(file: Path, exif: Image.Exif | None = TURNED) -> Path:
    """A stored picture that is red at its lower left, and so at the upper left once it is turned."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 255))
    image.paste((255, 0, 0), (0, 10, 10, 20))
    image.save(file, quality=95, **({} if exif is None else {"exif": exif}))
    return file


def coco(root: Path, size: tuple[int, int], *, count: int = 4, wrong: int | None = None) -> Path:
    """Files whose json says (height, width), of image `wrong` one more."""
    images = []
    for number in range(count):
        picture(root / f"images/train/{number}.jpg")
        more = int(number == wrong)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": size[0] + more, "width": size[1]})
    boxes = [{"image_id": number, "category_id": 1, "bbox": [0, 0, 10, 10]} for number in range(count)]
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "red"}]}
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    return root


def yolo(root: Path) -> Path:
    for number in range(4):
        picture(root / f"images/train/{number}.jpg")
        (root / "labels/train").mkdir(parents=True, exist_ok=True)
        (root / f"labels/train/{number}.txt").write_text("0 0.25 0.125 0.5 0.25\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [red]\n")
    return root


def table(root: Path) -> Path:
    paths = [str(picture(root / f"pictures/{number}.jpg")) for number in range(4)]
    rows = {"image": paths, "objects": [{"bbox": [[0.0, 0.0, 10.0, 10.0]], "category": [0]}] * 4}
    kinds = {"bbox": datasets.List(datasets.List(datasets.Value("float32")))}
    kinds["category"] = datasets.List(datasets.ClassLabel(names=["red"]))
    made = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(), "objects": kinds}))
    made.to_parquet(root / "train.parquet")
    return root


def opened(root: Path, **settings: Any) -> DataSplits:
    return open_data(DataConfig(root=str(root), workers=0, **settings))


def upright_coco(root: Path) -> Path:
    return coco(root, (WIDTH, HEIGHT))


@pytest.mark.parametrize("form", [upright_coco, yolo, table])
def test_boxes_lie_on_what_exif_turns_upright(tmp_path: Path, form: Callable[[Path], Path]) -> None:
    train = opened(form(tmp_path)).train
    image, (box,) = train.image(0), boxes_of_image(train, 0).boxes.int().tolist()
    assert size_of_boxed(train, 0) == tuple(image.shape[1:]) == (WIDTH, HEIGHT)
    assert box == [0, 0, 10, 10]
    inside = image[:, box[1] + 2 : box[3] - 2, box[0] + 2 : box[2] - 2].float().mean((1, 2))
    assert inside.tolist() == pytest.approx([255, 0, 0], abs=12)


@pytest.mark.parametrize("form", [yolo, table])
def test_sizes_that_are_read_off_headers_follow_exif_rotation(tmp_path: Path, form: Callable[[Path], Path]) -> None:
    train = opened(form(tmp_path), exif_rotation=False).train
    assert size_of_boxed(train, 0) == tuple(train.image(0).shape[1:]) == (HEIGHT, WIDTH)


def test_boxes_for_images_as_they_are_stored_are_refused_with_the_setting_that_reads_them(tmp_path: Path) -> None:
    root = coco(tmp_path, (HEIGHT, WIDTH))
    first = r"0\.jpg has 20 x 40 pixels and its boxes are for 40 x 20, .* \(where EXIF turns .*: data\.exif_rot"
    with pytest.raises(UserError, match=f"train: 4 images have another size than the boxes: {first}"):
        opened(root)
    assert len(opened(root, exif_rotation=False).train) == 3
    with pytest.raises(UserError, match=r"leave out data\.exif_rotation=false"):
        opened(coco(tmp_path, (WIDTH, HEIGHT)), exif_rotation=False)


def test_a_single_image_of_another_size_is_said_before_training(tmp_path: Path) -> None:
    root = coco(tmp_path, (WIDTH, HEIGHT), wrong=2)
    (said,) = (note for note in opened(root).notes if "another size" in note)
    assert said.startswith("train: 1 image has another size than the boxes: 2.jpg has 20 x 40 pixels and its boxes are")
    with pytest.raises(UserError, match="1 image has another size"):
        opened(root, on_bad_image="stop")


def test_a_tiff_is_turned_by_pillow_and_its_size_is_known(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    for file in root.glob("images/train/*.jpg"):
        picture(file.with_suffix(".tiff"))
        file.unlink()
    train = opened(root).train
    assert size_of_boxed(train, 0) == tuple(train.image(0).shape[1:]) == (WIDTH, HEIGHT)


def test_where_no_image_to_evaluate_on_can_be_read_the_first_reason_is_said(tmp_path: Path) -> None:
    root = coco(tmp_path, (WIDTH, HEIGHT))
    data = opened(root)
    for file in root.glob("images/train/*.jpg"):
        file.write_bytes(file.read_bytes()[:400])
    loader = BoxEvalLoader(data.train, box_rendering(DataConfig(root=str(root))), batch_size=2)
    with pytest.raises(UserError, match=r"none of the 3 images to evaluate on can be read: \d\.jpg: "):
        list(loader)


def test_a_split_to_be_measured_on_without_a_box_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    root = yolo(tmp_path)
    for number in range(4):
        picture(root / f"images/val/{number}.jpg")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red]\n")
    with pytest.raises(UserError, match=r"no image of yolo's val split has a box.*take the split away"):
        opened(root)
