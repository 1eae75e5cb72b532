"""Images with boxes as open_data finds them, and the loaders that a run gets of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from understudy.core.boxes import Boxes
from understudy.data import DataConfig, augment_for, eval_loader, open_data, train_loader
from understudy.data.sources.box_formats import with_box_format
from understudy.data.sources.boxed import boxes_of_image, has_boxes
from understudy.data.sources.renumbered import renumbered
from understudy.data.sources.shapes import drawn_shapes, drawn_shapes_with_boxes
from understudy.utils.errors import UserError


def coco_folder(root: Path, *, count: int = 6) -> Path:
    """train/ with drawn shapes and their boxes, in COCO's json as Roboflow lays it."""
    folder = root / "train"
    folder.mkdir(parents=True)
    pictures, boxes = drawn_shapes_with_boxes(count, seed=0, side=32)
    images, annotations = [], []
    for number, (picture, own) in enumerate(zip(pictures, boxes.each(), strict=True)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 32, "width": 32})
        for (x1, y1, x2, y2), label in zip(own.boxes.tolist(), own.labels.tolist(), strict=True):
            one = {"id": len(annotations), "image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append(one)
    names = [{"id": number, "name": name} for number, name in enumerate(("disc", "square", "triangle"))]
    content = {"images": images, "annotations": annotations, "categories": names}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def config(root: object, **settings: Any) -> DataConfig:
    return DataConfig(root=str(root), **{"batch_size": 4, "workers": 0, **settings})


def test_boxes_lie_around_what_is_seen_of_each_shape() -> None:
    images, boxes = drawn_shapes_with_boxes(20, seed=3)
    plain, masks = drawn_shapes(20, seed=3)
    assert torch.equal(images, plain)
    for mask, own in zip(masks, boxes.each(), strict=True):
        around = torch.zeros_like(mask)
        for (x1, y1, x2, y2), label in zip(own.boxes.int().tolist(), own.labels.tolist(), strict=True):
            inside = mask[y1:y2, x1:x2] == label + 1
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()  # noqa: PT018
            around[y1:y2, x1:x2] = 1
        assert int(own.area.sum()) == int((mask > 0).sum())
        assert (around[mask > 0] == 1).all()


def test_a_folder_with_cocos_file_is_found_divided_and_batched(tmp_path: Path) -> None:
    settings = config(coco_folder(tmp_path), val_fraction=0.34)
    data = open_data(settings)
    assert (data.name, data.classes, data.have_boxes) == ("coco", ("disc", "square", "triangle"), True)
    assert (len(data.train), len(data.val), data.num_unlabelled, data.window) == (4, 2, 0, 32)
    loader = train_loader(data, settings, seed=0, image_size=32)
    first, again = (next(loader.epoch(1)) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert (first.images.shape, first.targets.num_images) == ((4, 3, 32, 32), 4)
    (seen,) = eval_loader(data.val, settings, image_size=32)
    expected = Boxes.packed([boxes_of_image(data.val, i) for i in range(2)])
    assert torch.equal(seen.targets.boxes, expected.boxes)


def test_yolo_is_found_by_its_yaml(tmp_path: Path) -> None:
    for name in ("images/train", "labels/train"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "images/train/a.png")
    (tmp_path / "labels/train/a.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cat, dog]\n")
    data = open_data(config(tmp_path))
    assert (data.name, data.classes, data.window) == ("yolo", ("cat", "dog"), (32, 64))


def test_whoever_asks_for_boxes_gets_them_of_a_folder_that_has_masks_too(tmp_path: Path) -> None:
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation", "Annotations"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages/a.jpg")
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>12</xmax><ymax>20</ymax></bndbox>"
    (tmp_path / "Annotations/a.xml").write_text(
        "<annotation><filename>a.jpg</filename><size><width>40</width><height>30</height></size>"
        f"<object><name>cat</name>{box}</object></annotation>"
    )
    assert with_box_format(config(tmp_path)).format == "voc-boxes"
    assert with_box_format(config(tmp_path, format="voc")).format == "voc"
    assert with_box_format(config("digits")).format == "auto"


def test_a_sheet_of_labels_beside_class_folders_is_no_coco_file(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (20, 20), (number, 9, 9)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "train_labels.json").write_text("{}")
    (tmp_path / "some.yaml").write_text(": [")
    assert not has_boxes(open_data(config(tmp_path)).train)


def test_classes_of_boxes_are_renumbered() -> None:
    train = open_data(config("boxes-of-shapes")).train
    turned = renumbered(train, [2, 0, 1])
    expected = torch.tensor([2, 0, 1])[boxes_of_image(train, 5).labels]
    assert boxes_of_image(turned, 5).labels.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 64}, r"data.image_size: images with boxes are shown whole; data.shorter_side"),
        ({"copies": "pairs"}, r"data.copies: of images with one class each, and these have boxes"),
        ({"augment": {"name": "resized_crop"}}, r"resized_crop moves images alone, and these have boxes"),
        ({"shorter_side": 64, "shorter_sides": (32, 64)}, r"say the same of images with boxes; leave one out"),
    ],
)
def test_settings_of_images_with_one_class_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_data(config("boxes-of-shapes", **settings))


def test_sizes_and_mirroring_follow_the_settings() -> None:
    data = open_data(config("boxes-of-shapes", fraction=0.02))
    settings = config("boxes-of-shapes", shorter_sides=(32, 96), augment="none")
    assert augment_for(settings, data.train).name == "none"
    sides = {side for batch in train_loader(data, settings, seed=0, image_size=64).epoch(1) for side in
             batch.targets.sizes.flatten().tolist()}  # fmt: skip
    assert sides == {32, 96}
    seen = next(iter(eval_loader(data.val, settings, image_size=64)))
    assert seen.images.shape[2:] == (96, 96)
    assert seen.targets.scale.unique().tolist() == [1.5]
