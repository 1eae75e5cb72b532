"""What `understudy export` does of a detector: the size of its images, what is written, and its score as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.core.batch import Batch
from understudy.core.image_size import ImageSize, height_and_width, size_of, size_text
from understudy.data import Source
from understudy.data.augment.boxes import MULTIPLE, BoxRendering, box_rendering, padded_size
from understudy.data.loaders.boxes import BoxEvalLoader
from understudy.data.sources.base import joined, rows_of
from understudy.data.sources.boxed import size_of_boxed
from understudy.data.sources.grey_range import spread
from understudy.models import Network
from understudy.models.detectors.base import RawSifting
from understudy.models.detectors.deployed import FoundBoxes, RawBoxes, detector_in
from understudy.models.detectors.two_stage import TwoStage
from understudy.models.export import Runner, Subject
from understudy.recipes.schema import Recipe
from understudy.runs.evaluate import Images
from understudy.runs.finders import FileDetector, FileMaps
from understudy.utils.errors import UserError

__all__ = ["box_predictors", "box_source", "box_subject", "canvas_batches", "check_canvas"]

TRIAL_IMAGES = 8  # that files are held against torch on
CALIBRATION_IMAGES = 64  # whose ranges int8 is chosen by: each is a photograph


def check_canvas(size: ImageSize | None) -> None:
    """Refuse a size that a pyramid would have to fill up.

    Raises:
        UserError: a side is no multiple of 32.
    """
    if size is not None and any(side % MULTIPLE for side in height_and_width(size)):
        raise UserError(f"--image-size of a detector's file is in multiples of {MULTIPLE}, got {size_text(size)}")


def box_subject(
    network: Network,
    recipe: Recipe,
    images: Images | None,
    about: Mapping[str, str],
    *,
    asked: ImageSize | None,
    raw: bool,
    calibrates: bool,
) -> Subject:
    """The student as a file holds it: for images of one size, that of the largest image that is evaluated.

    Args:
        network: the student.
        recipe: of the run.
        images: that it is held against torch on; None: there are none.
        about: what a file says of any student.
        asked: a size in place of that of the images.
        raw: all boxes and scores, without non-maximum suppression.
        calibrates: whether ranges for int8 are needed.

    Raises:
        UserError: a detector that has no raw boxes is asked for them, or nothing says how large images are.
    """
    shown = box_rendering(recipe.data)
    model = (RawBoxes if raw else FoundBoxes)(network.prepared).eval()
    source = None if images is None else box_source(images)
    canvas = _canvas(source, shown) if asked is None else height_and_width(asked)
    detector = detector_in(model)
    assert detector is not None, "a run of detection has a detector"
    told = {
        "canvas": list(canvas),
        "shorter_side": None if shown.shorter_sides is None else max(shown.shorter_sides),
        "longer_side": shown.longer_side,
        "sifting": None if not raw or detector.sifting is None else _as_told(detector.sifting),
    }
    trials: Sequence[Tensor] = () if source is None else _some(source, shown, canvas, TRIAL_IMAGES)
    train = images.splits["train"] if images is not None and calibrates else None
    return Subject(
        model,
        size_of(canvas),
        {
            **about,
            **{name: json.dumps(value) for name, value in told.items() if value is not None},
            "input": _in_words(raw, is_single=model.is_single, by_class=isinstance(detector, TwoStage)),
        },
        calibration=() if train is None else _some(train, shown, canvas, CALIBRATION_IMAGES),
        outputs=model.outputs,
        finds=not raw,
        is_ragged=model.is_ragged,
        is_single=model.is_single,
        is_unordered=model.is_unordered,
        trials=trials,
    )


def _as_told(sifting: RawSifting) -> dict[str, float | None]:
    return {"min_score": sifting.min_score, "most": sifting.most, "overlap": sifting.overlap}


def _in_words(raw: bool, *, is_single: bool, by_class: bool) -> str:
    first = (
        "images (1,3,H,W) of the size of canvas, RGB in [0,1]: scaled so that the shorter side is shorter_side "
        "(without it: as they are), the longer at most longer_side, and both within canvas, at the top left of black; "
        "mean and std are applied inside. "
    )
    if raw:
        batch = "1" if is_single else "B"
        return first.replace("(1,", f"({batch},") + (
            f"boxes ({batch},A,{'C,' if by_class else ''}4) are corners x1, y1, x2, y2 in pixels of it"
            f"{', one for each class' if by_class else ''}, scores ({batch},A,C) probabilities by "
            "class, before the best are chosen as sifting says"
        )
    return first + (
        "boxes (D,4) are corners x1, y1, x2, y2 in pixels of it, labels (D,) numbers of classes, scores (D,) "
        "probabilities, the surest first"
    )


def box_source(images: Images) -> Source:
    """The validation images in one."""
    return joined([images.splits[name] for name in images.counted("val")])


def _canvas(source: Source | None, shown: BoxRendering) -> tuple[int, int]:
    """Height and width that hold every image that is evaluated."""
    if source is None:
        raise UserError(
            "a detector's file is for images of one size, and the run's images, which would tell it, are not there any "
            "more; --image-size HEIGHTxWIDTH says it, or --data FOLDER names others"
        )
    return padded_size([shown.whole(size_of_boxed(source, i)) for i in range(len(source))])


def canvas_batches(source: Source, recipe: Recipe, canvas: tuple[int, int]) -> BoxEvalLoader:
    """Images with boxes one by one, none larger than the canvas."""
    return BoxEvalLoader(source, replace(box_rendering(recipe.data), within=canvas), batch_size=1)


def _some(source: Source, shown: BoxRendering, canvas: tuple[int, int], most: int) -> list[Tensor]:
    """(1,3,H,W) some of the images, evenly spread, each on the whole canvas."""
    some = rows_of(source, torch.tensor(spread(len(source), most)))
    height, width = canvas
    loader = BoxEvalLoader(some, replace(shown, within=canvas), batch_size=1)
    return [
        F.pad(batch.images, (0, width - batch.images.shape[3], 0, height - batch.images.shape[2])) for batch in loader
    ]


def box_predictors(subject: Subject, runners: Mapping[str, Runner]) -> dict[str, partial[FileMaps]]:
    """What evaluation asks of torch and of every file, all on the same canvas."""
    detector = detector_in(subject.model)
    sifting = None if subject.finds or detector is None else detector.sifting
    canvas = height_and_width(subject.image_size)
    return {name: partial(_asked, FileDetector(run, canvas, sifting)) for name, run in runners.items()}


def _asked(detector: FileDetector, batch: Batch) -> FileMaps:
    return FileMaps(detector)
