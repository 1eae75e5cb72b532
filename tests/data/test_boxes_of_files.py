"""Boxes in COCO's json, VOC's xml and YOLO's txt, as one kind of target; what is put right, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from understudy.data import DataConfig
from understudy.data.sources.boxed import BoxSource
from understudy.data.sources.coco_json import is_coco, is_coco_for_sure, read_coco
from understudy.data.sources.decoding import BadImageError
from understudy.data.sources.detect import find, task_at
from understudy.data.sources.found import Found
from understudy.data.sources.voc_xml import is_voc_boxes, read_voc_boxes
from understudy.data.sources.yolo_txt import is_yolo, read_yolo
from understudy.utils.errors import UserError

WIDTH, HEIGHT = 40, 30


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(path)


def train_of(found: Found) -> BoxSource:
    source = found.splits["train"]
    assert isinstance(source, BoxSource)
    return source


def coco(root: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(root / "images" / "train" / name)
    sizes = {"height": HEIGHT, "width": WIDTH}
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", **sizes}, {"id": 3, "file_name": "b.jpg", **sizes},
                   {"id": 5, "file_name": "c.jpg", **sizes}],
        "categories": [{"id": 90, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 13, "name": "cow"}],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations)],
    }  # fmt: skip
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "instances_train.json").write_text(json.dumps({**content, **changes}))
    return root


def box(image: int, category: int, corners: list[float], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": corners, **more}


def test_coco_keeps_crowds_and_numbers_categories_with_holes_by_id(tmp_path: Path) -> None:
    root = coco(
        tmp_path, [box(3, 90, [1, 2, 10, 20], area=77.5), box(7, 1, [0, 0, 5, 5]), box(3, 13, [0, 0, 9, 9], iscrowd=1)]
    )
    assert is_coco(root)
    found = read_coco(root)
    assert found.classes == ("cat", "cow", "dog")
    source = train_of(found)
    assert [source.name(i) for i in range(3)] == ["a.jpg", "b.jpg", "c.jpg"]
    there = source.target(1)
    assert there.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 9, 9]]
    assert (there.labels.tolist(), there.crowd.tolist()) == ([2, 1], [False, True])
    assert there.area.tolist() == [77.5, 81]
    assert there.sizes.tolist() == [[HEIGHT, WIDTH]]
    assert len(source.target(2).labels) == 0
    assert source.image(0).shape == (3, HEIGHT, WIDTH)
    assert found.notes == (
        "train: 3 boxes on 3 images, 1 of them without any",
        "train: not trained on, but evaluated with: 1 crowd",
    )


def test_boxes_are_cut_to_their_image_and_what_is_left_of_none_is_left_out(tmp_path: Path) -> None:
    corners = [[-5, -5, 20, 20], [30, 20, 10.4, 10.4], [50, 50, 9, 9], [3, 3, 0, 9], [3, 3, 9, -1]]
    found = read_coco(coco(tmp_path, [box(7, 1, one) for one in corners]))
    assert train_of(found).target(0).boxes.tolist() == [[0, 0, 15, 15], [30, 20, 40, 30]]
    assert found.notes[1:] == (
        "train: cut to the image: 1 box beyond it",
        "train: left out: 1 box outside the image",
        "train: left out: 2 boxes without width or height",
    )


@pytest.mark.parametrize(
    ("annotations", "changes", "message"),
    [
        ([box(4, 1, [0, 0, 5, 5])], {}, "annotation 0 is of image 4, which the file does not list"),
        ([box(7, 2, [0, 0, 5, 5])], {}, "annotation 0 is of category 2, which the file does not list"),
        ([box(7, 1, [0, 0, 5])], {}, r"annotation 0 has no box of four numbers, but \[0, 0, 5\]"),
        ([box(7, 1, [0, 0, 5, float("nan")])], {}, "has no box of four numbers"),
        ([box(7, 1, [0, 0, 5, 10**400])], {}, "has no box of four numbers"),
        ([box(7, 1, [0, 0, True, 5])], {}, "has no box of four numbers"),
        ([{**box(7, 1, [0, 0, 5, 5]), "category_id": [1]}], {}, r"annotation 0 is of category \[1\], which"),
        ([{**box(7, 1, [0, 0, 5, 5]), "image_id": [7]}], {}, r"annotation 0 is of image \[7\], which"),
        ([], {}, "has no box to learn from"),
        ([], {"categories": [{"id": "x"}]}, "categories need ids"),
        ([], {"images": [{"id": 1, "file_name": "../a.jpg", "height": 1, "width": 1}]}, "not a path below the folder"),
        ([], {"images": [{"id": 1, "file_name": "a.jpg", "height": 0, "width": 1}]}, "image 1 needs file_name, and"),
        ([], {"images": [{"id": [1], "file_name": "a.jpg", "height": 1, "width": 1}]}, r"image \[1\] needs an id"),
        ([], {"images": [{"id": 1, "file_name": "a.jpg", "height": "9", "width": 1}]}, "whole numbers of pixels"),
        ([], {"images": 3}, "not in COCO's form"),
    ],
)
def test_a_coco_file_that_cannot_be_used_is_refused_in_words(
    tmp_path: Path, annotations: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_coco(coco(tmp_path, annotations, **changes))


def test_categories_of_one_name_are_one_class(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    found = read_coco(coco(tmp_path, [box(7, 1, [0, 0, 5, 5]), box(7, 2, [0, 0, 9, 9])], categories=categories))
    assert found.classes == ("cat", "dog")
    assert train_of(found).target(0).labels.tolist() == [0, 1]
    assert "train: 1 category has the name of another, and is taken for the same class" in found.notes


def test_an_area_that_is_no_number_is_the_boxs_and_a_mark_of_the_byte_order_is_no_error(tmp_path: Path) -> None:
    root = coco(tmp_path, [box(7, 1, [0, 0, 5, 5], area=10**400), box(7, 1, [0, 0, 5, 5], area="much")])
    file = root / "annotations" / "instances_train.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert train_of(read_coco(root)).target(0).area.tolist() == [25, 25]


def test_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    root = coco(tmp_path, [box(7, 1, [0, 0, 5, 5])])
    (root / "images" / "train" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"names 1 image that is not below .*train: b\.jpg; put the images there"):
        read_coco(root)
    (root / "images" / "train" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"names 3 images, such as a\.jpg, that are in none of .*images/train"):
        read_coco(root)
    with pytest.raises(UserError, match="has no COCO file of training boxes"):
        read_coco(tmp_path / "images")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("annotations/instances_default.json", "images/default"),  # CVAT
        ("annotations/mine.json", "images"),
        ("result.json", "images"),  # Label Studio
    ],
)
def test_a_lone_file_that_names_no_split_is_train(tmp_path: Path, name: str, folder: str) -> None:
    root = coco(tmp_path / "there", [box(7, 1, [0, 0, 5, 5])])
    (root / "annotations/instances_train.json").rename(root / name)
    (root / "images/train").rename(tmp_path / "pictures")
    (root / "images").rmdir()
    (root / folder).parent.mkdir(exist_ok=True)
    (tmp_path / "pictures").rename(root / folder)
    assert is_coco_for_sure(root)
    assert len(train_of(read_coco(root)).target(0).labels) == 1


def test_an_image_of_another_size_than_its_boxes_are_for_is_bad(tmp_path: Path) -> None:
    root = coco(tmp_path, [box(7, 1, [0, 0, 5, 5])])
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(root / "images" / "train" / "a.jpg")
    with pytest.raises(BadImageError, match="41 x 30 pixels, and its boxes are for 40 x 30"):
        train_of(read_coco(root)).image(0)


def voc(root: Path, objects: str, *, name: str = "one", head: str = "") -> Path:
    picture(root / "JPEGImages" / f"{name}.jpg")
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations" / f"{name}.xml").write_text(
        f"{head}<annotation><filename>{name}.jpg</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )
    return root


def thing(name: str, *corners: int, difficult: int = 0) -> str:
    sides = "".join(f"<{s}>{c}</{s}>" for s, c in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def test_voc_counts_pixels_from_one_and_keeps_difficult_objects_as_crowds(tmp_path: Path) -> None:
    home = tmp_path / "VOCdevkit" / "VOC2012"
    home.mkdir(parents=True)
    voc(home, thing("dog", 1, 1, 1, 1) + thing("cat", 11, 5, 20, 10, difficult=1))
    voc(home, "", name="two")
    (home / "ImageSets" / "Main").mkdir(parents=True)
    (home / "ImageSets" / "Main" / "train.txt").write_text("one\ntwo\n")
    assert is_voc_boxes(tmp_path)
    found = read_voc_boxes(tmp_path)
    assert found.classes == ("cat", "dog")
    there = train_of(found).target(0)
    assert there.boxes.tolist() == [[0, 0, 1, 1], [10, 4, 20, 10]]
    assert (there.labels.tolist(), there.crowd.tolist()) == ([1, 0], [False, True])
    assert len(train_of(found)) == 2


@pytest.mark.parametrize(
    ("objects", "head", "message"),
    [
        (thing("dog", 1, 1, 5, 5), "<!DOCTYPE a [<!ENTITY b 'c'>]>", "declares entities"),
        ("<object>", "", "is no XML"),
        ("<object><name>dog</name></object>", "", "has no <xmin>"),
        (thing("dog", 1, 1, 5, 5).replace("<xmax>5", "<xmax>five"), "", "<xmax> is no number, but 'five'"),
        ("", "", "no file has an object to learn from"),
    ],
)
def test_voc_files_that_cannot_be_used_are_refused_in_words(
    tmp_path: Path, objects: str, head: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_voc_boxes(voc(tmp_path, objects, head=head))


def yolo(root: Path, lines: str, *, names: str = "[cat, dog]") -> Path:
    picture(root / "images" / "train" / "a.jpg")
    picture(root / "images" / "train" / "b.jpg")
    (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (root / "labels" / "train" / "a.txt").write_text(lines)
    (root / "data.yaml").write_text(f"path: ../elsewhere\ntrain: images/train\nval: images/train\nnames: {names}\n")
    return root


@pytest.mark.parametrize(
    ("text", "message"), [(None, r"no data.yaml.*\n  train: images/train"), ("", "names should be a list")]
)
def test_yolo_labels_without_a_data_yaml_are_asked_for_it_and_not_for_class_folders(
    text: str | None, message: str, tmp_path: Path
) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.5 0.2\n")
    (root / "data.yaml").unlink()
    if text is not None:
        (root / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        find(DataConfig(root=str(root)))
    assert task_at(DataConfig(root=str(root))) == "detection"


def test_yolo_reads_boxes_and_polygons_as_shares_of_the_image(tmp_path: Path) -> None:
    root = yolo(tmp_path, "1 0.5 0.5 0.5 0.2\n0 0.1 0.1 0.4 0.1 0.2 0.5\n", names="{0: cat, 1: dog}")
    assert is_yolo(root)
    assert is_yolo(root / "data.yaml")
    found = read_yolo(root)
    assert found.classes == ("cat", "dog")
    there = train_of(found).target(0)
    torch.testing.assert_close(there.boxes, torch.tensor([[10.0, 12, 30, 18], [4.0, 3, 16, 15]]))
    assert there.labels.tolist() == [1, 0]
    assert len(train_of(found).target(1).labels) == 0
    assert set(found.splits) == {"train", "val"}


@pytest.mark.parametrize(
    ("lines", "names", "message"),
    [
        ("2 0.5 0.5 0.5 0.2", "[cat, dog]", r"a\.txt, line 1: class 2 has no name; names has 2 \(0\.\.1\)"),
        ("1 0.5 0.5 0.5", "[cat, dog]", "a box has four numbers behind its class, a polygon six or more, got 3"),
        ("cat 0.5 0.5 0.5 0.2", "[cat, dog]", "a class number and numbers are wanted"),
        ("1 100 200 50 50", "[cat, dog]", "shares of the image are wanted, 0 to 1"),
        ("", "[cat, dog]", "no training image has a box"),
        ("1 0.5 0.5 0.5 0.2", "{0: cat, 2: dog}", "number them from 0 without gaps"),
        ("1 0.5 0.5 0.5 0.2", "[cat, cat]", "names has 'cat' twice"),
    ],
)
def test_yolo_files_that_cannot_be_used_are_refused_in_words(
    tmp_path: Path, lines: str, names: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_yolo(yolo(tmp_path, lines, names=names))


@pytest.mark.parametrize(
    "place", ["../train/images", "/content/train/images", "C:\\mine\\train\\images", "train/images"]
)
def test_a_yaml_that_was_moved_finds_its_folders_beside_it(tmp_path: Path, place: str) -> None:
    picture(tmp_path / "train/images/a.jpg")
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "train/images/b.jpg").write_bytes(b"JPEG?")
    (tmp_path / "data.yaml").write_text(json.dumps({"train": place, "names": ["cat"]}))
    found = read_yolo(tmp_path)
    assert [train_of(found).name(i) for i in range(len(found.splits["train"]))] == ["train/images/a.jpg"]
    assert found.no_images == ("train: train/images/b.jpg",)
    assert len(train_of(found).target(0).labels) == 1


def test_folders_of_other_kinds_are_none_of_these(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "cat" / "a.jpg")
    assert not is_coco(tmp_path)
    assert not is_voc_boxes(tmp_path)
    assert not is_yolo(tmp_path)
