"""`understudy analyze`: what a run lets be seen of its students, and DOT's toy experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.options import AllowCode, DataOption, ModuleOption

__all__ = ["analyze"]

TOY = "toy"
TOY_DELTAS = (0.0, 0.075, -0.075)


def analyze(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; or the word toy, for DOT's toy experiment.")
    ],
    what: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="calibration, fidelity, relations, similarity, projection, equivariance, embeddings, curvature, "
            "landscape; of segmenters pixels. All by default.",
        ),
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", min=2, help="Look at so many images of a split.")] = 500,
    points: Annotated[
        int, typer.Option(metavar="N", min=3, help="Of a loss landscape along each direction; an odd number.")
    ] = 11,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Whose students; by default the run's first.")] = None,
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Of toy: draw its figure there.")] = None,
    module: ModuleOption = None,
    allow_code: AllowCode = False,
) -> None:
    """Compute from finished runs why their students are as they are, and add figures to the page of each.

    Landscapes, curvature, fidelity, calibration, relations, similarity of layers, equivariance, embeddings and
    projectors go to analysis/NAME.json of the run. Ctrl-C stops, and the same command goes on from there.
    """
    from understudy.utils.errors import UserError
    from understudy.utils.text import listed

    if list(map(str, runs)) == [TOY]:
        given = {"--what": what, "--seed": seed, "--data": data, "--module": module}
        if unread := [option for option, value in given.items() if value is not None]:
            raise UserError(f"{listed(unread, 4)} is of runs; `understudy analyze toy` has but --out FILE.svg")
        typer.echo(_toy(out))
        return
    if out is not None:
        raise UserError("--out is for `understudy analyze toy`; figures of a run go onto its page")
    from understudy.runs.analyses.run import AnalyzeOptions
    from understudy.runs.analyses.run import analyze as analyze_runs
    from understudy.runs.console import Display
    from understudy.runs.folder import open_run_folder
    from understudy.runs.reopen import built_alike

    names = () if what is None else tuple(name.strip() for name in what.split(",") if name.strip())
    if what is not None and not names:
        raise UserError("--what names no analysis; leave it out for all of them")
    options = AnalyzeOptions(what=names, num_images=images, points=points, seed=seed, data=data)
    folders = [open_run_folder(run) for run in runs]
    built = built_alike(folders[0], module, allow_code=allow_code)
    pages = analyze_runs(folders, options, allow_code=allow_code, module=built, display=Display())
    for page in pages:
        typer.echo(f"Page: {page}")


def _toy(out: Path | None) -> str:
    """The numbers of DOT's toy experiment as a table, and its figure."""
    from understudy.analysis import toy, toy_optimum

    lines = ["Two logits, a label that says 1 and a teacher that says 0.7 (DOT, appendix A.2, figure 8):", ""]
    lines.append("  delta   probability after 200 steps   at rest   lowest to highest, steps 20 to 200")
    for delta in TOY_DELTAS:
        found = toy(delta=delta).probabilities
        low, high = found[20:].min(), found[20:].max()
        lines.append(f"  {delta:>6g}   {found[-1]:>27.3f}   {toy_optimum(delta=delta):>7.3f}   {low:.3f} to {high:.3f}")
    lines += ["", "0 is SGD with momentum; the larger delta, the nearer to the teacher's 0.7."]
    if out is not None:
        from understudy.report.toy import draw_toy

        lines.append(f"Figure: {draw_toy(out, TOY_DELTAS)}")
    return "\n".join(lines)
