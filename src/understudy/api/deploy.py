"""What Python does with a finished run: predict, evaluate, analyze, export."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from understudy.api.distill import Result
from understudy.core.image_size import checked_size
from understudy.models.export import FORMATS, Format
from understudy.models.export.onnx import Onnx
from understudy.runs.console import Display
from understudy.runs.evaluate import evaluate as evaluate_run
from understudy.runs.export import BoxForm, Wanted
from understudy.runs.export import export as export_run
from understudy.runs.export_report import ExportReport
from understudy.runs.folder import RunFolder, open_run_folder
from understudy.runs.predict import Given, Prediction, predictions
from understudy.utils.errors import UserError
from understudy.utils.untrusted import given_path

__all__ = ["analyze", "evaluate", "export", "predict"]


def predict(
    student: str | Path | nn.Module | Result,
    images: Given | Sequence[Given],
    *,
    topk: int = 5,
    teacher: bool | nn.Module = False,
    module: nn.Module | None = None,
    allow_code: bool = False,
) -> list[Prediction]:
    """What a student says of pictures: names of classes and their probabilities.

    Args:
        student: a run folder, a student's folder, an ONNX file of `export`, what `load_student` gives, or what
            `distill` does.
        images: files, folders (all images in them, at any depth) or PIL images; one or several.
        topk: so many of the likeliest classes.
        teacher: True: the teacher of the run beside it, or all where it has several. A network: the teacher that
            `distill` was given.
        module: for a student that Python handed over, named by its folder: a network that is built alike.
        allow_code: let a folder name a factory in your own code, which is then imported and called.

    Returns:
        One for each picture, in order; one that cannot be read says why in `problem`, and does not stop the others.

    Raises:
        UserError: no student, no images, or no teacher where one is asked for.
    """
    if isinstance(student, Result):
        module = module or copy.deepcopy(student.student)
        student = student.run.path
    found = predictions(
        student, images, topk=topk, teacher=teacher, module=module, allow_code=allow_code, say=lambda note: None
    )
    return list(found)


def evaluate(
    run: str | Path | Result,
    *,
    data: str | Path | None = None,
    split: str = "val",
    module: nn.Module | None = None,
    allow_code: bool = False,
) -> dict[str, float]:
    """The scores of a run's student on its own images or on others, by metric.

    Args:
        run: a run folder, or what `distill` gives.
        data: a folder, or what else a recipe's `data.root` may be; its classes are all or some of the student's.
            None: the run's own, which cannot be opened again where Python handed them over.
        split: val or test; of a folder without splits all images count.
        module: as in `predict`.
        allow_code: as in `predict`.

    Raises:
        UserError: no such images, or a class that the student does not know.
    """
    folder, module = _opened(run, module)
    where = None if data is None else str(given_path(data, what="data"))
    found = evaluate_run(folder, split=split, data=where, module=module, allow_code=allow_code)
    return dict(found.scores.scores)


def analyze(
    run: str | Path | Result,
    *,
    what: Sequence[str] = (),
    images: int = 500,
    points: int = 11,
    seed: int | None = None,
    data: str | Path | None = None,
    module: nn.Module | None = None,
    allow_code: bool = False,
    quiet: bool = True,
) -> dict[str, dict[str, Any]]:
    """Compute why a run's students are as they are, and add the figures to its page.

    Each analysis is kept in analysis/NAME.json of the run (arrays in NAME.safetensors), piece by piece: what an earlier
    call has done is not done again.

    Args:
        run: a run folder, or what `distill` gives.
        what: names of analyses, as `understudy analyze --what`; empty: all that are of its task.
        images: at most so many of a split are looked at.
        points: of a loss landscape along each direction, an odd number.
        seed: whose students; None: the run's first.
        data: as in `evaluate`.
        module: as in `predict`.
        allow_code: as in `predict`.
        quiet: print nothing.

    Returns:
        By analysis, what its JSON holds: "pieces" by row, or "problem" where it could not be made.

    Raises:
        UserError: no such analysis, or a run whose images cannot be shown again.
    """
    from understudy.runs.analyses.run import AnalyzeOptions
    from understudy.runs.analyses.run import analyze as analyze_runs

    folder, module = _opened(run, module)
    where = None if data is None else str(given_path(data, what="data"))
    options = AnalyzeOptions(tuple(what), num_images=images, points=points, seed=seed, data=where)
    analyze_runs([folder], options, allow_code=allow_code, module=module, display=Display(quiet=quiet))
    files = {analysis.name: folder.analysis / f"{analysis.name}.json" for analysis in options.chosen}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}


def export(
    run: str | Path | Result,
    *,
    onnx: str | Path | None = None,
    opset: int | None = None,
    float16: bool = False,
    int8: str | Path | None = None,
    pt2: str | Path | None = None,
    torchscript: str | Path | None = None,
    openvino: str | Path | None = None,
    raw: bool = False,
    image_size: int | Sequence[int] | None = None,
    data: str | Path | None = None,
    most_images: int | None = None,
    module: nn.Module | None = None,
    allow_code: bool = False,
) -> ExportReport:
    """Write a run's student into files to deploy, each held against torch, scored and timed.

    Args:
        run: a run folder, or what `distill` gives.
        onnx: file to write: ONNX of any batch.
        opset: of `onnx`; None: torch's default.
        float16: of `onnx`: half precision inside.
        int8: file to write: ONNX in whole numbers, calibrated on training images.
        pt2: file to write: a program of torch.export.
        torchscript: file to write: a traced network.
        openvino: folder to write, where OpenVINO is installed.
        raw: of a detector: all boxes and scores by class, without non-maximum suppression.
        image_size: that a detector's files take, a number or (height, width); None: that of the largest image.
        data: images to score and calibrate on in place of the run's own.
        most_images: validation images to score on; 0: none; None: all.
        module: as in `predict`.
        allow_code: as in `predict`.

    Returns:
        Sizes, scores and latencies; `print(report.describe())` shows them.

    Raises:
        UserError: nothing is asked for, packages are missing, or a file could not be written, after all others are.
    """
    folder, module = _opened(run, module)
    if onnx is None and (opset is not None or float16):
        raise UserError("opset and float16 are of onnx; give that, too")
    formats: dict[str, tuple[Format, str | Path | None]] = {"onnx": (Onnx(opset=opset, float16=float16), onnx)}
    for name, file in {"int8": int8, "pt2": pt2, "torchscript": torchscript, "openvino": openvino}.items():
        formats[name] = FORMATS[name](), file
    wanted = [
        Wanted(format, given_path(file, what=name)) for name, (format, file) in formats.items() if file is not None
    ]
    where = None if data is None else str(given_path(data, what="data"))
    boxes = BoxForm(size=None if image_size is None else checked_size(image_size), raw=raw)
    report = export_run(
        folder, wanted, data=where, most_images=most_images, module=module, boxes=boxes, allow_code=allow_code
    )
    if report.failed:
        raise UserError("\n".join(report.failed))
    return report


def _opened(run: str | Path | Result, module: nn.Module | None) -> tuple[RunFolder, nn.Module | None]:
    """The folder, and a copy of the student that `distill` gave."""
    if isinstance(run, Result):
        return run.run, module or copy.deepcopy(run.student)
    return open_run_folder(run), module
