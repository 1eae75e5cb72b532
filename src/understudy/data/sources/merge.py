"""merged: several roots as one data set."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.data.sources.base import Source, joined
from understudy.data.sources.boxed import has_boxes
from understudy.data.sources.found import Found, SplitName
from understudy.data.sources.masked import has_masks
from understudy.data.sources.renumbered import Renumbered, RenumberedBoxes, RenumberedMasks
from understudy.utils.errors import UserError

__all__ = ["merged"]


def merged(parts: Sequence[Found]) -> Found:
    """The splits of several roots one after the other, with the class names of the one that has most.

    Raises:
        UserError: a root has a class that the one with most classes lacks, or masks where others have none.
    """
    if len(parts) == 1:
        return parts[0]
    if len({has_masks(part.splits["train"]) for part in parts}) > 1:
        raise UserError("data.root: some of these have masks and others one class an image; take one kind")
    if len({has_boxes(part.splits["train"]) for part in parts}) > 1:
        raise UserError("data.root: some of these have boxes and others one class an image; take one kind")
    largest = max(parts, key=lambda part: len(part.classes))
    for part in parts:
        if unknown := [name for name in part.classes if name not in largest.classes]:
            raise UserError(
                f"data.root: {part.name} has classes that {largest.name} lacks: {', '.join(unknown[:10])}; data sets "
                "are put together only where the names of one are among the names of the other"
            )
    names: list[SplitName] = ["train", "val", "test"]
    splits = {
        split: joined([_renumbered(part.splits[split], part, largest) for part in parts if split in part.splits])
        for split in names
        if any(split in part.splits for part in parts)
    }
    return Found(
        name="+".join(part.name for part in parts),
        classes=largest.classes,
        splits=splits,
        val_words=next((part.val_words for part in parts if "val" in part.splits), "val split"),
        no_images=tuple(f"{part.name}: {name}" for part in parts for name in part.no_images),
        notes=tuple(note for part in parts for note in part.notes),
    )


def _renumbered(source: Source, part: Found, whole: Found) -> Source:
    number_of = {name: number for number, name in enumerate(whole.classes)}
    numbers = [number_of[name] for name in part.classes]
    if has_masks(source):
        return RenumberedMasks(source, numbers, prefix=f"{part.name}: ")
    if has_boxes(source):
        return RenumberedBoxes(source, numbers, prefix=f"{part.name}: ")
    return Renumbered(source, numbers, prefix=f"{part.name}: ")
