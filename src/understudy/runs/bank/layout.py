"""What a bank keeps of every look of the teacher, and how much that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.core.taps import TapShape
from understudy.methods import MethodConfig
from understudy.methods.combination import taps_of
from understudy.runs.bank.of_boxes import box_layout, level_in_words
from understudy.runs.components import Components
from understudy.teachers.bank.packing import BankLayout, map_tapped
from understudy.utils.errors import UserError
from understudy.utils.text import bytes_in_words, plural

__all__ = ["BankOptions", "check_options", "layout_of"]

SHARD_SAMPLES = 16_384  # a kill loses at most so many looks of the teacher
SHARD_BYTES = 64 * 2**20  # and a shard is written from memory


@dataclass(frozen=True, kw_only=True)
class BankOptions:
    """What is kept of every look."""

    views: int = 8  # augmented versions of the training set
    dtype: str = "float16"
    topk: int | None = None
    feature_maps: bool = False
    shard_samples: int = SHARD_SAMPLES


def check_options(options: BankOptions) -> None:
    """Refuse what no bank can have."""
    if options.views < 1:
        raise UserError(f"--views {options.views}: at least one is needed")
    if options.dtype not in ("float16", "float32"):
        raise UserError(f"--dtype {options.dtype!r}: there are float16 and float32")
    if options.topk is not None and options.topk < 1:
        raise UserError(f"--topk {options.topk}: at least one logit must be kept")


def layout_of(components: Components, methods: Sequence[MethodConfig], options: BankOptions) -> BankLayout:
    """What a row of this bank holds, from a dry forward of the tapped teacher."""
    shapes = components.shown_teacher.shapes(components.teacher_sample)
    data = components.recipe.data
    wanted = {tap for config in methods for tap in taps_of(config).teacher}
    kept = getattr(components.task, "banked_maps", ())
    maps = {name: _size(shape) for name, shape in shapes.outputs.items() if name in kept}
    known: dict[str, Any] = {
        "dtype": options.dtype,
        "centred": options.dtype == "float16" and not maps,
        "topk": options.topk,
        "num_classes": shapes.num_classes,
        "maps": maps,
        "taps": {tap: _size(shape) for tap, shape in shapes.items() if map_tapped(tap, maps) is None},
        "groups": {tap: [name for name in shapes if name.startswith(f"{tap}.")] for tap in wanted - set(shapes)},
        "num_samples": len(components.data.train),
        "num_copies": {"none": 1, "pairs": 2, "rotations": 4}[data.copies],
        "num_repeats": data.repeats,
        "batch_size": min(data.batch_size, len(components.data.train)),
        "steps_per_shard": 1,
        **box_layout(
            components,
            shapes,
            topk=options.topk,
            bytes_a_value=4 if options.dtype == "float32" else 2,
            views=options.views,
        ),
    }
    layout = BankLayout.read(known, what="this bank")
    _refuse_maps(layout, shapes, options)
    if layout.canvas == "batch":
        return layout  # a shard's rows have maps of one size
    sample_bytes = layout.row_bytes * layout.num_copies
    steps = min(options.shard_samples, SHARD_BYTES // sample_bytes) // layout.batch_size
    return layout.model_copy(update={"steps_per_shard": max(1, steps)})


def _size(shape: TapShape) -> tuple[int, ...]:
    return tuple(side for side in (shape.channels, shape.height, shape.width) if side is not None)


def _refuse_maps(layout: BankLayout, shapes: Mapping[str, TapShape], options: BankOptions) -> None:
    of_boxes = layout.canvas is not None  # all of whose taps are maps, also those of one position of a blank image
    maps = {
        tap: shape for tap, shape in shapes.items() if tap in layout.taps and (of_boxes or shape.height is not None)
    }
    if not maps or options.feature_maps:
        return
    in_words = {tap: level_in_words(layout.taps[tap]) if of_boxes else str(shape) for tap, shape in maps.items()}
    listed = ", ".join(f"{tap} {words}" for tap, words in in_words.items())
    instead = "train with the teacher itself" if of_boxes else "take methods on logits and embeddings"
    raise UserError(
        f"the methods of this recipe read feature maps of the teacher ({listed}), which make the bank "
        f"{bytes_in_words(layout.view_bytes * options.views)} for {plural(options.views, 'view')} of a "
        f"seed; give --feature-maps if that is meant, or {instead}"
    )
