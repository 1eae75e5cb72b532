"""Segmentation to look at: IoU class by class, and a few images with the masks of truth, teacher and student."""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.report.figures.base import register_figure
from understudy.report.figures.rows import finish_rows, images_of, within_percent
from understudy.report.figures.style import TEACHER_COLOR, Plot, looks, new_figure, shortened
from understudy.report.run_data import RunData
from understudy.utils.palette import colour_of

__all__ = ["example_plot", "iou_plot"]

_MOST_CLASSES = 20  # more do not fit a screen; those with the largest gaps are shown
_MOST_NAMED = 12  # of the classes in the examples
_COLOURS = np.array([colour_of(number) for number in range(256)], dtype=np.uint8)
_COLOURS[255] = 235  # what has no class is light


@register_figure("ious", place=52)
def iou_plot(run: RunData) -> Plot | None:
    """IoU of each class: the best row's student, and the teacher where it was scored."""
    best = run.results.best_row
    if best is None or best.name not in run.ious:
        return None
    data, student, teacher = run.results.data, run.ious[best.name], run.ious.get("/teacher")
    gaps = student if teacher is None else student - teacher
    known = [int(number) for number in np.flatnonzero(np.isfinite(gaps))]
    widest = sorted(known, key=lambda number: -abs(gaps[number]))[:_MOST_CLASSES]
    shown = sorted(widest, key=lambda number: (-gaps[number], number))
    if not shown:
        return None
    figure = new_figure(1.2 + 0.27 * len(shown))
    axes = figure.add_subplot()
    y = np.arange(len(shown))
    if teacher is not None:
        axes.hlines(y, teacher[shown], student[shown], color="#c9cdd4", linewidth=2.5, zorder=1)
        hollow: Any = {"markersize": 6, "markerfacecolor": "white", "markeredgecolor": TEACHER_COLOR}
        axes.plot(teacher[shown], y, "D", **hollow, linestyle="none", label="teacher")
    color = looks([row.name for row in run.results.rows])[best.name].color
    filled: Any = {"markersize": 7.5, "color": color, "markeredgecolor": "white"}
    axes.plot(student[shown], y, "o", **filled, linestyle="none", label=shortened(f"student, {best.name}"))
    finish_rows(axes, [data.class_name(number) for number in shown], f"IoU on {images_of(run.results)}, %")
    within_percent(axes)
    figure.legend(loc="outside lower center", ncols=2)
    part = f" ({len(shown)} of {data.num_classes} classes)" if len(shown) < data.num_classes else ""
    beside = "" if teacher is None else "; the longer the line, the further student and teacher are apart"
    text = f"Intersection over union of each class, over the pixels of all images{beside}{part}."
    return Plot("ious", f"Class by class: {best.name}{'' if teacher is None else ' and the teacher'}", text, figure)


@register_figure("masks", place=54)
def example_plot(run: RunData) -> Plot | None:
    """A few validation images, side by side with the masks of truth, teacher and best student."""
    best = run.results.best_row
    if best is None or not run.examples:
        return None
    columns = [name for name in ("truth", "teacher", best.name) if any(name in one.masks for one in run.examples)]
    figure = new_figure(0.5 + 1.55 * len(run.examples))
    grid = figure.subplots(len(run.examples), 1 + len(columns), squeeze=False)
    titles = ["image", *("student" if name == best.name else name for name in columns)]
    for place, (example, line) in enumerate(zip(run.examples, grid, strict=True)):
        pictures = [example.image, *(_coloured(example.masks.get(name), example.image.shape) for name in columns)]
        for axes, picture, title in zip(line, pictures, titles, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            if place == 0:
                axes.set_title(title, fontsize=9.5, fontweight="normal", loc="center")
    _name_colours(figure, run)
    text = (
        "Evenly spread validation images, seed "
        f"{run.results.seeds[0]}; a colour is a class, light grey has none and counts nowhere."
    )
    return Plot(
        "masks",
        f"Masks: truth, teacher and {best.name}" if "teacher" in columns else f"Masks: truth and {best.name}",
        text,
        figure,
    )


def _coloured(mask: Any, shape: tuple[int, ...]) -> Any:
    return np.full(shape, 255, dtype=np.uint8) if mask is None else _COLOURS[mask]


def _name_colours(figure: Any, run: RunData) -> None:
    """A legend of the classes with most pixels in what is shown."""
    from matplotlib.patches import Patch

    counts = np.zeros(256, dtype=np.int64)
    for example in run.examples:
        counts += np.bincount(example.masks["truth"].ravel(), minlength=256)
    shown = [
        int(n)
        for n in np.argsort(-counts, kind="stable")[:_MOST_NAMED]
        if counts[n] and n < run.results.data.num_classes
    ]
    patches = [
        Patch(
            facecolor=_COLOURS[number] / 255, edgecolor="#b6bac2", label=shortened(run.results.data.class_name(number))
        )
        for number in shown
    ]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=4)
