"""What a bank keeps of a detector: levels of its pyramid, how much that is, and why its heads are not kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from understudy.core.taps import TapShape
from understudy.data.augment.boxes import box_rendering, common_canvas
from understudy.data.loaders.boxes import BoxTrainLoader
from understudy.data.sources.boxed import size_of_boxed
from understudy.methods import MethodConfig
from understudy.recipes.comparison import Variant
from understudy.runs.component_changes import with_data_settings
from understudy.runs.components import Components
from understudy.utils.errors import UserError

__all__ = ["box_layout", "level_in_words", "refuse_asking_rows"]

PROBED = (256, 384)  # pixels a side of blank images that tell a level's stride; the first is a multiple of all strides


def refuse_asking_rows(components: Components, rows: Sequence[Variant]) -> None:
    """Refuse rows that ask a detector's head, which no bank can answer for.

    Raises:
        UserError: naming each such row and its methods.
    """
    if not components.data.have_boxes:
        return
    asking = {row.name: [config.method.name for config in row.method if _asks(config)] for row in rows}
    named = [name if names == [name] else f"{name} ({', '.join(names)})" for name, names in asking.items() if names]
    if not named:
        return
    others = [name for name, names in asking.items() if not names]
    way_out = (
        f"--rows {','.join(others)}"
        if any(row.method and not asking[row.name] for row in rows)
        else ("such as --rows alone,fitnet,fgfi,reviewkd")
    )
    raise UserError(
        f"a bank cannot teach {'row' if len(named) == 1 else 'rows'} {', '.join(named)}: there the teacher's head is "
        "asked about the boxes that the student proposes in that step, which nobody knows beforehand. Train them with "
        "the teacher itself (its backbone looks at a batch once for all rows), and bank rows that read levels of the "
        f"pyramid alone ({way_out})"
    )


def box_layout(
    components: Components, shapes: Mapping[str, TapShape], *, topk: int | None, bytes_a_value: int, views: int
) -> dict[str, Any]:
    """How a detector's levels are kept, as settings of a `BankLayout`; nothing where there are no boxes.

    Args:
        components: with the teacher tapped.
        shapes: of the taps on blank images.
        topk: logits that are to be kept, which must be left open.
        bytes_a_value: of the stored type.
        views: of each seed.

    Raises:
        UserError: no level is read, or logits are to be kept.
    """
    if not components.data.have_boxes:
        return {}
    if topk is not None:
        raise UserError(f"--topk {topk}: of a detector no logits are kept, only levels of its pyramid; leave it out")
    if not shapes:
        raise UserError(
            "no row of this recipe reads a level of the teacher's pyramid, and nothing else of a detector can be "
            "banked; name rows that do, such as --rows alone,fitnet,fgfi,reviewkd"
        )
    source, rendering = components.data.train, box_rendering(components.recipe.data)
    canvas = common_canvas((size_of_boxed(source, i) for i in range(len(source))), rendering)
    shown = _shown(components, views) if canvas is None else Counter({canvas: 1})
    values = _values_by_canvas(components)
    total = sum(values(height, width) * count for (height, width), count in shown.items())
    return {"canvas": canvas or "batch", "map_bytes": round(bytes_a_value * total / shown.total())}


def level_in_words(size: Sequence[int]) -> str:
    """'x 256 channels': heights and widths are those of each batch."""
    return f"x {size[0]} channels"


def _asks(config: MethodConfig) -> bool:
    return "teacher_logits" in config.method.needs_for(config)


def _shown(components: Components, views: int) -> Counter[tuple[int, int]]:
    """How many images of all views and seeds are padded to each size."""
    whole = with_data_settings(components, {"drop_last": False})
    found: Counter[tuple[int, int]] = Counter()
    for seed in components.recipe.seeds:
        loader = whole.whole_passes(seed)
        assert isinstance(loader, BoxTrainLoader)
        for view in range(views):
            for canvas, count in loader.canvases(view + 1):
                found[canvas] += count
    return found


def _values_by_canvas(components: Components) -> Callable[[int, int], int]:
    """Values of all tapped maps of one image, by height and width that it is padded to.

    A map is as large as its stride says, rounded up; one of a detector that stretches its images (SSD) always the same.
    """
    small, large = (components.shown_teacher.shapes(components.blank_images(side)) for side in PROBED)
    fixed = sum(math.prod(_size(small[tap])) for tap in small if small[tap] == large[tap])
    levels = [
        (shape.channels, PROBED[0] / (shape.height or 1), PROBED[0] / (shape.width or 1))
        for tap, shape in small.items()
        if shape != large[tap]
    ]

    def values(height: int, width: int) -> int:
        return fixed + sum(
            channels * math.ceil(height / down) * math.ceil(width / across) for channels, down, across in levels
        )

    return values


def _size(shape: TapShape) -> tuple[int, ...]:
    return tuple(side for side in (shape.channels, shape.height, shape.width) if side is not None)
