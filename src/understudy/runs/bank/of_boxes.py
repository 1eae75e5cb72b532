"""Why what a detector says cannot be kept, method by method, and what its pyramid would take."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from understudy.core.outputs import named_outputs
from understudy.data.augment.boxes import box_rendering, padded_size
from understudy.data.sources.boxed import size_of_boxed
from understudy.methods.combination import taps_of
from understudy.recipes.comparison import Variant
from understudy.runs.components import Components
from understudy.utils.errors import UserError
from understudy.utils.text import bytes_in_words

__all__ = ["pyramid_bytes", "refuse_boxes"]

SIDE = 128  # pixels of an image that tells the channels and strides of a pyramid


def refuse_boxes(components: Components, rows: Sequence[Variant], *, bytes_a_value: int) -> None:
    """Refuse a bank of a detector, with the reason for each method and the size of what it would have to hold.

    Raises:
        UserError: the data have boxes.
    """
    if components.recipe.task != "detection":
        return
    methods = {config.method.name: bool(taps_of(config).teacher) for row in rows for config in row.method}
    asking = sorted(name for name, reads_maps in methods.items() if not reads_maps)
    reading = sorted(name for name, reads_maps in methods.items() if reads_maps)
    reasons = []
    if asking:
        reasons.append(
            f"{', '.join(asking)}: the teacher's head is asked about the boxes that the student proposes in that step, "
            "which nobody knows beforehand"
        )
    if reading:
        size = bytes_in_words(pyramid_bytes(components, bytes_a_value=bytes_a_value))
        reasons.append(
            f"{', '.join(reading)}: the levels of its pyramid would take {size} a view, and are of another size "
            "for each image and batch, which a bank cannot hold yet"
        )
    raise UserError(
        "a bank of a detector is not made; train with the teacher itself (its backbone looks at a batch once for all "
        "rows). " + "; ".join(reasons)
    )


def pyramid_bytes(components: Components, *, bytes_a_value: int) -> int:
    """What all levels of the teacher's pyramid take, of every training image at its largest size."""
    network = components.teacher_network
    assert network is not None
    module = network.module
    weight = next(module.parameters())
    was_training = module.training
    with torch.no_grad():
        levels = named_outputs(module.eval()(torch.zeros(1, 3, SIDE, SIDE, device=weight.device, dtype=weight.dtype)))
    module.train(was_training)
    values = sum(one.shape[1] * one.shape[2] * one.shape[3] for one in levels.values()) / SIDE**2  # a pixel
    rendering, source = box_rendering(components.recipe.data), components.data.train
    sizes = [padded_size([rendering.whole(size_of_boxed(source, i))]) for i in range(len(source))]
    return round(values * bytes_a_value * sum(height * width for height, width in sizes))
