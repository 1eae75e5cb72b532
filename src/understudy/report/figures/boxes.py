"""Images with the boxes of truth, teacher and student, side by side."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from understudy.report.boxes import BoxExample, DrawnBox, box_examples
from understudy.report.figures.base import register_figure
from understudy.report.figures.style import Plot, is_narrow, legend_columns, new_figure, shortened
from understudy.report.run_data import RunData

__all__ = ["box_plot"]

_MOST_NAMED = 12  # classes in the legend
_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#D55E00", "#F0E442", "#0072B2", "#B58CFF")
_MISSED = "#fdfdfd"
_LINES: dict[str, Any] = {"true": "solid", "right": "solid", "wrong": (0, (4, 2)), "missed": (0, (1, 1.5))}


@register_figure("boxes", place=54)
def box_plot(run: RunData) -> Plot | None:
    """The validation images on which the best student lost most against the teacher, with their boxes."""
    best, examples = run.results.best_row, box_examples(run)
    if best is None or not examples:
        return None
    columns = [name for name in ("truth", "teacher", "student") if any(name in one.boxes for one in examples)]
    heights = [one.image.shape[0] / one.image.shape[1] for one in examples]
    width = (3.8 if is_narrow() else 7.5) / len(columns)
    figure = new_figure(0.9 + sum(min(3.2, max(0.6, width * height)) for height in heights))
    grid = figure.subplots(len(examples), len(columns), squeeze=False, height_ratios=heights)
    numbers: dict[int, None] = {box.label: None for one in examples for boxes in one.boxes.values() for box in boxes}
    colours = {label: _COLOURS[label % len(_COLOURS)] for label in sorted(numbers)}
    titles = {"student": f"student, {shortened(best.name, 14)}"}
    for place, (example, line) in enumerate(zip(examples, grid, strict=True)):
        for axes, name in zip(line, columns, strict=True):
            _draw(axes, example, example.boxes.get(name, ()), colours)
            if place == 0:
                axes.set_title(titles.get(name, name), fontsize=9.5, fontweight="normal", loc="center")
    _legend(figure, run, colours)
    against = "lost most against the teacher" if "teacher" in columns else "finds least"
    text = (
        f"{'Test' if run.results.split == 'test' else 'Validation'} images on which {best.name} (seed "
        f"{best.seeds[0].seed}) {against}, the worst first. A dashed box is wrong: it finds nothing, or names another "
        "class. A dotted white one is there and was not found. Detections count from the score on where F1 is best."
    )
    return Plot("boxes", f"Boxes: {', '.join(columns[:-1])} and {best.name}", text, figure)


def _draw(axes: Axes, example: BoxExample, boxes: tuple[DrawnBox, ...], colours: dict[int, str]) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(example.image, interpolation="nearest")
    axes.set_axis_off()
    for box in boxes:
        x1, y1, x2, y2 = box.corners
        place: Any = ((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1)
        if box.kind != "wrong":  # a seam under broken lines of a colour would join their parts
            axes.add_patch(Rectangle(*place, fill=False, edgecolor="black", linewidth=2.8, alpha=0.45))
        colour = _MISSED if box.kind == "missed" else colours[box.label]
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=1.6, linestyle=_LINES[box.kind]))
    height, width = example.image.shape[:2]
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def _legend(figure: Figure, run: RunData, colours: dict[int, str]) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor="none", edgecolor=colour, linewidth=1.6, label=shortened(run.results.data.class_name(label)))
        for label, colour in list(colours.items())[:_MOST_NAMED]
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=legend_columns(4))
