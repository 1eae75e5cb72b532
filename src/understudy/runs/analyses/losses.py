"""Loss landscape, and curvature of the minimum: the task loss around the weights of every student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.analysis import (
    filter_normalised,
    hessian_trace,
    largest_eigenvalues,
    losses_at,
    random_direction,
    sharpness,
)
from understudy.runs.analyses.base import Analysis, Found, Piece, register_analysis
from understudy.runs.analyses.opened import Opened

__all__ = ["CURVATURE", "LANDSCAPE", "steps_of"]

SPLIT = "train"
LINE_POINTS = 41
REACH = 1.0
SEEDS = (1, 2)  # of the two directions, the same for all students of one layout
EIGENVALUES, LANCZOS_STEPS, TRACE_SAMPLES = 3, 20, 16
MOST_IMAGES_OF_CURVATURE = 256
HESSIAN_PASSES = 5.0  # forward passes that a product with the Hessian is worth


def steps_of(points: int) -> npt.NDArray[np.float64]:
    """An odd number of steps from -REACH to REACH; the middle one is 0, which `linspace` misses by rounding."""
    return REACH * (np.arange(points) - points // 2) / (points // 2)


def _settings(opened: Opened) -> Mapping[str, Any]:
    return {"points": opened.points, "line_points": LINE_POINTS, "reach": REACH, "directions": list(SEEDS)}


def _landscape_pieces(opened: Opened) -> Iterable[Piece]:
    for row in opened.rows:
        yield Piece(f"{row}/line", LINE_POINTS, row, partial(_line, opened, row))
        for place in range(opened.points):
            yield Piece(f"{row}/plane.{place}", opened.points, row, partial(_plane_row, opened, row, place))


def _line(opened: Opened, row: str) -> Found:
    steps = steps_of(LINE_POINTS)
    losses = _losses(opened, row, SEEDS[:1], [(float(x),) for x in steps])
    centre = float(losses[LINE_POINTS // 2])
    values = {
        "steps": steps.tolist(),
        "losses": losses.tolist(),
        "loss": centre,
        "sharpness": sharpness(losses, centre),
    }
    return Found(values)


def _plane_row(opened: Opened, row: str, place: int) -> Found:
    steps = steps_of(opened.points)
    losses = _losses(opened, row, SEEDS, [(float(steps[place]), float(y)) for y in steps])
    return Found({"steps": steps.tolist(), "losses": losses.tolist()})


def _losses(opened: Opened, row: str, seeds: Sequence[int], places: Sequence[Sequence[float]]) -> Any:
    module = opened.network(row).module
    directions = [filter_normalised(module, random_direction(module, seed=seed)) for seed in seeds]

    @torch.no_grad()
    def loss() -> float:
        return float(_mean_loss(opened, row, None))

    return losses_at(module, loss, directions, places)


def _mean_loss(opened: Opened, row: str, most: int | None) -> Tensor:
    """Mean cross entropy over the images, with a graph where gradients are on."""
    module = opened.network(row).module
    total, count = None, 0
    for images, labels in opened.images(row, SPLIT, most=most):
        loss = F.cross_entropy(module(images).float(), labels, reduction="sum")
        total, count = loss if total is None else total + loss, count + len(labels)
    assert total is not None, "something is shown"
    return total / count


def _curvature_settings(opened: Opened) -> Mapping[str, Any]:
    return {
        "eigenvalues": EIGENVALUES,
        "lanczos_steps": LANCZOS_STEPS,
        "trace_samples": TRACE_SAMPLES,
        "most_images": MOST_IMAGES_OF_CURVATURE,
    }


def _curvature_pieces(opened: Opened) -> Iterable[Piece]:
    share = min(1.0, MOST_IMAGES_OF_CURVATURE / len(opened.shown(SPLIT)))
    for row in opened.rows:
        yield Piece(
            f"{row}/eigenvalues", share * LANCZOS_STEPS * HESSIAN_PASSES, row, partial(_eigenvalues, opened, row)
        )
        yield Piece(f"{row}/trace", share * TRACE_SAMPLES * HESSIAN_PASSES, row, partial(_trace, opened, row))


def _eigenvalues(opened: Opened, row: str) -> Found:
    loss, parameters = _differentiable(opened, row)
    found = largest_eigenvalues(loss, parameters, count=EIGENVALUES, steps=LANCZOS_STEPS)
    return Found({"largest": found})


def _trace(opened: Opened, row: str) -> Found:
    loss, parameters = _differentiable(opened, row)
    return Found(asdict(hessian_trace(loss, parameters, samples=TRACE_SAMPLES)))


def _differentiable(opened: Opened, row: str) -> tuple[Callable[[], Tensor], list[Tensor]]:
    module = opened.network(row).module.requires_grad_(True)
    return partial(_mean_loss, opened, row, MOST_IMAGES_OF_CURVATURE), list(module.parameters())


LANDSCAPE = register_analysis(
    Analysis("landscape", "loss landscape", 90, SPLIT, lambda _: None, _settings, _landscape_pieces)
)
CURVATURE = register_analysis(
    Analysis("curvature", "curvature of the minimum", 80, SPLIT, lambda _: None, _curvature_settings, _curvature_pieces)
)
