"""Whether images have the sizes that their boxes are for, before anything is trained on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from understudy.data.sources.base import EncodedSource, Source, stored_at
from understudy.data.sources.boxed import size_of_boxed
from understudy.data.sources.decoding import UNREADABLE, size_from_header
from understudy.utils.errors import UserError
from understudy.utils.text import listed, plural

if TYPE_CHECKING:
    from understudy.data.config import DataConfig

__all__ = ["check_box_sizes"]

MOST_LOOKED_AT = 400  # images of a split, evenly spread: their headers take 0.1 s
SHOWN = 5  # of problems, and what of them is borne


def check_box_sizes(source: Source, config: DataConfig, *, split: str) -> list[str]:
    """Refuse boxes for images of other sizes; what a person should know of single ones, which are left out.

    Headers of image files alone are read; damaged files are said by whoever reads them.

    Raises:
        UserError: all images that were looked at differ, or more than a few, or one where data.on_bad_image says stop.
    """
    looked_at = sorted({i * (len(source) - 1) // max(1, MOST_LOOKED_AT - 1) for i in range(MOST_LOOKED_AT)})
    found = [(source.name(i), size, size_of_boxed(source, i)) for i in looked_at if (size := _size(source, i))]
    wrong = [(name, size, wanted) for name, size, wanted in found if size != wanted]
    if not wrong:
        return []
    texts = [f"{name} has {_text(size)} pixels and its boxes are for {_text(wanted)}" for name, size, wanted in wrong]
    said = f"{split}: {plural(len(wrong), 'image has', 'images have')} another size than the boxes: "
    said += listed(texts, SHOWN)
    if any(size == wanted[::-1] for _, size, wanted in wrong):
        said += (
            " (where EXIF turns the image: data.exif_rotation=false)"
            if config.exif_rotation
            else " (they fit images that EXIF turns: leave out data.exif_rotation=false)"
        )
    if len(wrong) == len(found) or len(wrong) > SHOWN or config.on_bad_image == "stop":
        raise UserError(said)
    return [f"{said} (left out; `data.on_bad_image: stop` to refuse)"]


def _size(source: Source, i: int) -> tuple[int, int] | None:
    """Height and width of an image file by its header; None of what is no file, or cannot be read."""
    holder, place = stored_at(source, i)
    if not isinstance(holder, EncodedSource):
        return None
    try:
        with holder.opened(place) as file, Image.open(file) as image:
            return size_from_header(image, applies_exif=holder.applies_exif)
    except UNREADABLE:
        return None


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
