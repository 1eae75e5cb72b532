"""What probes saw while students trained: momenta, losses on fixed images, spectra of projectors, equivariance."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from understudy.report.figures.base import Lacking, register_figure
from understudy.report.figures.found import add_legend, draw_line, make_log, of_probe
from understudy.report.figures.style import Plot, add_panels, looks, new_figure, shortened
from understudy.report.kept_findings import Looks
from understudy.report.run_data import RunData

__all__ = ["cosines_plot", "probes_note", "shifts_plot", "spectrum_plot", "trade_off_plot"]

COSINES = (
    ("cos_distill_total", "cos(v distill, v)"),
    ("cos_task_total", "cos(v task, v)"),
    ("cos_gradients", "cos(g task, g distill)"),
)
MOST_VALUES = 12  # singular values of a panel
MOST_PROJECTORS = 4


@register_figure("probes", place=71)
def probes_note(run: RunData) -> Lacking | None:
    """One sentence for all figures of probes, where the run had none."""
    if (run.folder / "probes").is_dir():
        return None
    why = (
        "This run was trained without probes. `--probes momenta,losses,projector` (or `probes: [momenta]` in the "
        "recipe) looks at cosines of the momenta, the trade-off of the losses and the spectrum of projectors, for less "
        "than 2 % of the time."
    )
    return Lacking("probes", "While it trained", why)


@of_probe("cosines", "momenta", "Which loss leads", place=72)
def cosines_plot(run: RunData, found: dict[str, Looks]) -> Plot | None:
    """Cosines of each loss's momentum with their sum, and of the two gradients, by step."""
    figure = new_figure(3.4)
    rows = [row.name for row in run.results.rows if row.name in found]
    style = looks([row.name for row in run.results.rows])
    for axes, (key, title) in zip(add_panels(figure, len(COSINES)), COSINES, strict=True):
        for row in rows:
            draw_line(axes, found[row].places["step"], found[row].values[key], style[row], row)
        if min(np.nanmin(found[row].values[key]) for row in rows) < 0:
            axes.axhline(0, color="#b6bac2", linewidth=1, zorder=1)
        axes.set_title(title, pad=8)
        _count_steps(axes)
    add_legend(figure, style, rows)
    reading = (
        "v is the momentum that moves the weights, v = v distill + v task. The nearer a cosine is to 1, the more that "
        "loss decides where the student goes; below 0 the two gradients pull against each other (DOT, figure 5)."
    )
    sentences = [_conflict(row, found[row]) for row in rows]
    return Plot("cosines", "Which loss leads", reading, figure, tuple(sentences))


def _conflict(row: str, seen: Looks) -> str:
    opposed, consistent = (float(np.nanmean(seen.values[key])) for key in ("opposed", "consistent"))
    return (
        f"{row}: the two gradients have opposite signs on {opposed:.0f} % of the weights, and {consistent:.0f} % of "
        "their size in common (means over the training; DOT, eq. 6)."
    )


@of_probe("tradeoff", "losses", "Task loss against distillation", place=73)
def trade_off_plot(run: RunData, found: dict[str, Looks]) -> Plot | None:
    """Task loss and KL to the teacher on the same training images, epoch after epoch, and one against the other."""
    rows = [row.name for row in run.results.rows if row.name in found]
    has_teacher = [row for row in rows if "kl_to_teacher" in found[row].values]
    style = looks([row.name for row in run.results.rows])
    figure = new_figure(3.6)
    panels = add_panels(figure, 3 if has_teacher else 1)
    for key, title, axes in zip(
        ("task_loss", "kl_to_teacher"), ("task loss, nats", "KL to teacher (T=4), nats"), panels[:2], strict=False
    ):
        for row in rows if key == "task_loss" else has_teacher:
            draw_line(axes, found[row].places["epoch"], found[row].values[key], style[row], row)
        axes.set_title(title, pad=8)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        make_log(axes)
    for row in has_teacher:
        task, kl = (found[row].values[key].mean(axis=0) for key in ("task_loss", "kl_to_teacher"))
        panels[2].plot(kl, task, color=style[row].color, linestyle=style[row].dash, linewidth=1.2)
        panels[2].plot(
            kl[-1:], task[-1:], color=style[row].color, marker=style[row].marker, linestyle="none", label=row
        )
    if has_teacher:
        panels[2].set(title="one against the other", xlabel="KL to teacher", ylabel="task loss")
        make_log(panels[2])
        make_log(panels[2], x=True)
    add_legend(figure, style, rows)
    reading = (
        "The same training images after every epoch, in evaluation mode. Lower is better in both; on the right, a row "
        "ends at its mark, and nearer to the lower left corner means that neither loss was paid for with the other "
        "(DOT, figures 1, 3 and 6)."
    )
    return Plot("tradeoff", "Task loss against distillation", reading, figure)


@of_probe("spectrum", "projector", "What projectors let through", place=74)
def spectrum_plot(run: RunData, found: dict[str, Looks]) -> Plot | None:
    """Singular values of each connector by step, and the correlation of its input with its output."""
    layers = [
        (row, name.removesuffix("/singular_values"))
        for row in (row.name for row in run.results.rows)
        if row in found
        for name in found[row].values
        if name.endswith("/singular_values")
    ][:MOST_PROJECTORS]
    if not layers:
        return None
    figure = new_figure(3.4)
    style = looks([row.name for row in run.results.rows])
    *panels, last = add_panels(figure, len(layers) + 1)
    for axes, (row, layer) in zip(panels, layers, strict=True):
        values = found[row].values[f"{layer}/singular_values"].mean(axis=0)  # (K, R)
        shown = np.unique(np.linspace(0, values.shape[1] - 1, MOST_VALUES).round().astype(int))
        for place in shown:
            axes.plot(
                found[row].places["step"], values[:, place], color=style[row].color, linewidth=1,
                alpha=1 - 0.7 * place / max(1, values.shape[1]), marker="." if len(values) == 1 else None,
            )  # fmt: skip
        axes.set_title(shortened(f"{row}: {layer}", 30), pad=8)
        _count_steps(axes)
        make_log(axes)
    for row, layer in layers:
        draw_line(
            last, found[row].places["step"], found[row].values[f"{layer}/correlation"], style[row], f"{row}: {layer}"
        )
    last.set_title("input with output", pad=8)
    _count_steps(last)
    add_legend(figure, style, list(dict.fromkeys(row for row, _ in layers)))
    reading = (
        f"Up to {MOST_VALUES} singular values of each connector's weight: one that sinks to 0 is a direction of the "
        "student's features that the teacher is no longer compared in. On the right the mean absolute correlation of "
        "what goes in with what comes out (projector paper, figures 2 and 3)."
    )
    return Plot("spectrum", "What projectors let through", reading, figure)


@of_probe("shifts", "equivariance", "Translation equivariance while it trains", place=75)
def shifts_plot(run: RunData, found: dict[str, Looks]) -> Plot | None:
    """mu_T by step, the mean over a student's blocks, and that of its last block."""
    rows = [row.name for row in run.results.rows if row.name in found and "mean" in found[row.name].values]
    if not rows:
        return None
    style = looks([row.name for row in run.results.rows])
    figure = new_figure(3.4)
    panels = add_panels(figure, 2)
    for row in rows:
        last = [name for name in found[row].values if name != "mean"][-1]
        for axes, key in zip(panels, ("mean", last), strict=True):
            draw_line(axes, found[row].places["step"], found[row].values[key], style[row], row)
    for axes, title in zip(panels, ("mean over blocks", "last block"), strict=True):
        axes.set_title(title, pad=8)
        _count_steps(axes)
        make_log(axes)
    panels[0].set_ylabel("mu_T, share of the output's size")
    add_legend(figure, style, rows)
    reading = (
        "How much a block's output changes beyond moving when its input is moved by a place and zeros enter: the lower,"
        " the more the block treats all places alike, as a convolution does (projector paper, eq. 14 and table 7; its "
        "shifts, blocks and scale are not published, so that values compare within this page)."
    )
    return Plot("shifts", "Translation equivariance while it trains", reading, figure)


def _count_steps(axes: Axes) -> None:
    """An axis of training steps, which are whole."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
