"""The figure of DOT's toy experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from understudy.analysis import toy
from understudy.utils.files import write_atomically

__all__ = ["draw_toy"]


def draw_toy(file: Path, deltas: Sequence[float]) -> Path:
    """Write what the toy's student says by step, under each delta, as an SVG; where it went."""
    import matplotlib

    from understudy.report.figures.style import GREY, STYLE, TEACHER_COLOR, Plot, looks, new_figure

    names = {delta: "SGD (delta 0)" if delta == 0 else f"DOT, delta {delta:g}" for delta in deltas}
    style = looks(list(names.values()))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.6)
        axes = figure.add_subplot()
        for level, name, color in ((0.7, "teacher", TEACHER_COLOR), (1.0, "label", GREY)):
            axes.axhline(level, color=color, linewidth=1, linestyle="dashed", label=name)
        for delta, name in names.items():
            found = toy(delta=delta)
            axes.plot(found.probabilities, color=style[name].color, linestyle=style[name].dash, label=name)
        axes.set_xlabel("step")
        axes.set_ylabel("probability of the label")
        figure.legend(loc="outside lower center", ncols=5)
        svg = Plot("toy", "", "", figure).svg()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, svg.encode())
    return file
