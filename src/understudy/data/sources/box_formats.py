"""Readers of images with boxes: COCO's json, VOC's xml, YOLO's txt, tables of Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.data.sources.boxed_tables import has_box_tables, read_box_tables
from understudy.data.sources.coco_json import is_coco, is_coco_for_sure, read_coco
from understudy.data.sources.columns import Columns
from understudy.data.sources.found import Found
from understudy.data.sources.readers import AUTO, Reader
from understudy.data.sources.voc_xml import is_voc_boxes, read_voc_boxes
from understudy.data.sources.yolo_txt import has_yolo_labels, is_yolo, read_yolo
from understudy.utils.errors import UserError
from understudy.utils.untrusted import given_path

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["with_box_format"]


class _Coco(Reader, name="coco"):
    """annotations/instances_train*.json, or train/_annotations.coco.json, beside folders of images."""

    asked = 7
    task = "detection"

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether such files lie there."""
        return is_coco_for_sure(root)

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """As `read_coco`."""
        return read_coco(root)


class _VocBoxes(Reader, name="voc-boxes"):
    """Pascal VOC's Annotations/*.xml and JPEGImages/, split as ImageSets/Main says."""

    asked = 7
    task = "detection"

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether xml files lie there; one with masks, too, is `voc`, unless boxes are asked for."""
        return is_voc_boxes(root)

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """As `read_voc_boxes`."""
        return read_voc_boxes(root)


class _Yolo(Reader, name="yolo"):
    """A data.yaml, and labels/*.txt beside images/."""

    asked = 7
    task = "detection"

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether a yaml file with train and names lies there, or labels that want one."""
        return _is_yolo(root) or has_yolo_labels(root)

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """As `read_yolo`."""
        return read_yolo(root, applies_exif=config.exif_rotation)


class _BoxTables(Reader, name="parquet-boxes"):
    """Files of parquet with a column of images and one of boxes, as Hugging Face data sets have them."""

    asked = 1  # before those with a class for each image
    task = "detection"

    @classmethod
    def sniff(cls, root: Path) -> bool:
        """Whether there are such files, and no column of labels in them."""
        return has_box_tables(root, Columns())

    @classmethod
    def open(cls, root: Path, config: DataConfig) -> Found:
        """As `read_box_tables`."""
        columns = Columns(config.image_column, config.label_column)
        return read_box_tables(root, columns, applies_exif=config.exif_rotation)


def _is_yolo(root: Path) -> bool:
    try:
        return is_yolo(root)
    except UserError:  # some yaml file that is damaged
        return False


_FORMATS: dict[str, Callable[[Path], bool]] = {"coco": is_coco, "voc-boxes": is_voc_boxes, "yolo": _is_yolo}


def with_box_format(config: DataConfig) -> DataConfig:
    """The settings with the format of the boxes that lie at their root, where nobody names one.

    So that whoever asks for boxes gets them of a folder that has masks, too.
    """
    if config.format != AUTO or not (path := given_path(config.root, what="data.root")).exists():
        return config
    found = next((name for name, is_there in _FORMATS.items() if is_there(path)), None)
    return config if found is None else config.model_copy(update={"format": found})
