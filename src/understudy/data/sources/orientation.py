"""EXIF orientation: how a camera was held, which pictures are turned by, and how many of a data set say so."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import BinaryIO, Protocol, runtime_checkable

from PIL import ExifTags, Image

from understudy.data.sources.base import EncodedSource, Source, holders, stored_at

__all__ = ["Rotations", "count_rotations", "set_orientation"]

MOST_LOOKED_AT = 2_048  # images of a split, evenly spread: their headers take 0.2 s where they are files of photographs


@runtime_checkable
class TurnsUpright(Protocol):
    """A source that decodes image files, and may turn them as their EXIF says."""

    applies_exif: bool


class Rotations:
    """How many of the images that were looked at carry a rotation."""

    def __init__(self) -> None:
        self.found = self.looked_at = 0
        self.is_of_all = True  # whether all images were looked at
        self._seen: set[tuple[int, int]] = set()  # of sources that share their files

    def add(self, source: Source) -> None:
        """Look at the headers of a source's files, of many at evenly spread ones."""
        step = max(1, -(-len(source) // MOST_LOOKED_AT))
        self.is_of_all = self.is_of_all and step == 1
        for i in range(0, len(source), step):
            holder, place = stored_at(source, i)
            if not isinstance(holder, EncodedSource) or (id(holder), place) in self._seen:
                continue
            self._seen.add((id(holder), place))
            self.looked_at += 1
            self.found += _is_turned(holder, place)

    def note(self, *, is_applied: bool) -> list[str]:
        """What is done about them, for people; nothing where there are none."""
        if not self.found:
            return []
        of_how_many = "" if self.is_of_all else f" of {self.looked_at:,} that were looked at"
        one = self.found == 1 and not of_how_many
        images = f"{self.found:,} image{'' if one else 's'}{of_how_many}"
        does = f"{'carries' if one else 'carry'} a rotation (EXIF)"
        if is_applied:
            return [f"{images} {does} and {'is' if one else 'are'} turned upright (data.exif_rotation=false does not)"]
        return [f"{images} {does} that is not applied (data.exif_rotation: false)"]


def set_orientation(sources: Iterable[Source], *, applies_exif: bool) -> None:
    """Have whoever decodes the images of these sources turn them upright, or leave them as they lie in their files."""
    for source in sources:
        for holder in holders(source):
            if isinstance(holder, TurnsUpright):
                holder.applies_exif = applies_exif


def count_rotations(sources: Iterable[Source]) -> Rotations:
    """Those of the image files of several sources; of large ones evenly spread images are looked at."""
    counted = Rotations()
    for source in sources:
        counted.add(source)
    return counted


def _is_turned(source: EncodedSource, i: int) -> bool:
    try:
        with source.opened(i) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of damaged blocks
            return _carries_rotation(file)
    except Exception:  # whoever decodes the image says what is wrong with it
        return False


def _carries_rotation(file: BinaryIO) -> bool:
    with Image.open(file) as image:
        if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
            return False  # Pillow turns the one anyway, and would decode all of the other to look at its end
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
