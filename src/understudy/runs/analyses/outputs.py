"""What students say beside their teacher: fidelity, calibration, relations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial

import numpy as np
import torch

from understudy.analysis import calibration, effective_classes, fidelity, relations
from understudy.runs.analyses.base import Analysis, Found, Piece, register_analysis
from understudy.runs.analyses.opened import Opened

__all__ = ["CALIBRATION", "FIDELITY", "RELATIONS"]

SPLIT = "val"
MOST_CLASSES = 200  # whose matrix of correlations is kept: of 1,000 it is 8 MB a row


def _needs_teacher(opened: Opened) -> str | None:
    return opened.teacher_problem


def _of_pairs(opened: Opened, find: Callable[[Opened, str], Found]) -> Iterable[Piece]:
    for name, (row, _) in opened.pairs.items():
        yield Piece(name, 1.0, row, partial(find, opened, name))


def _of_each(opened: Opened, names: Iterable[str], find: Callable[[Opened, str], Found]) -> Iterable[Piece]:
    for name in names:
        yield Piece(name, 1.0, name, partial(find, opened, name))


def _fidelity(opened: Opened, pair: str) -> Found:
    student, teacher = (opened.logits(name, SPLIT) for name in opened.pairs[pair])
    found = asdict(fidelity(student, teacher, opened.shown(SPLIT).labels))
    apart = torch.from_numpy(found.pop("apart"))
    return Found(found, {"apart": apart.float()} if len(apart) <= MOST_CLASSES else {})


def _calibration(opened: Opened, name: str) -> Found:
    labels, probabilities = opened.shown(SPLIT).labels, opened.logits(name, SPLIT).double().softmax(1)
    found = asdict(calibration(probabilities, labels))
    values = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in found.items()}
    said = probabilities.argmax(1)
    right = 100 * float((said == labels).double().mean())
    used = effective_classes(said, num_classes=probabilities.shape[1])
    return Found({**values, "top1": right, "effective_classes": used})


def _relations(opened: Opened, pair: str) -> Found:
    student, teacher = (opened.logits(name, SPLIT).double().softmax(1) for name in opened.pairs[pair])
    found = relations(student, teacher)
    values = {
        f"mean_per_{kind}": float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
        for kind, values in (("image", found.per_image), ("class", found.per_class))
    }
    tensors = {"per_image": torch.from_numpy(found.per_image), "per_class": torch.from_numpy(found.per_class)}
    return Found(values, tensors)


FIDELITY = register_analysis(
    Analysis(
        "fidelity", "fidelity to the teacher", 20, SPLIT, _needs_teacher, lambda _: {},
        lambda opened: _of_pairs(opened, _fidelity),
    )
)  # fmt: skip
CALIBRATION = register_analysis(
    Analysis(
        "calibration", "calibration", 10, SPLIT, lambda _: None, lambda _: {},
        lambda opened: _of_each(opened, opened.names, _calibration),
    )
)  # fmt: skip
RELATIONS = register_analysis(
    Analysis(
        "relations", "relations with the teacher", 30, SPLIT, _needs_teacher, lambda _: {},
        lambda opened: _of_pairs(opened, _relations),
    )
)  # fmt: skip
