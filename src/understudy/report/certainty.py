"""How sure teacher and students are of each image, as predictions.safetensors keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.results.schema import Results

__all__ = ["Certainty", "certainty_in"]

Array = npt.NDArray[Any]
_PROBABILITIES = ("confidence", "label_probability")


@dataclass(frozen=True, slots=True)
class Certainty:
    """Of the headline's split: probabilities, and divergences in nats; a diverged student's are NaN.

    Attributes:
        indices: (N,) places in the split; None where nothing tells them.
        teacher: (N,) by name, "confidence" and "label_probability"; empty where the teacher was not asked.
        rows: by row and name, "kl" among them where there is a teacher: (S, N), seeds in the order of results.json.
    """

    indices: Array | None
    teacher: Mapping[str, Array]
    rows: Mapping[str, Mapping[str, Array]]


def certainty_in(tensors: Mapping[str, Array], results: Results, num_images: int) -> Certainty | None:
    """What these tensors tell; None where they tell nothing, as those of older runs."""

    def of(what: str, model: str) -> Array | None:
        found = tensors.get(f"{what}/{results.split}/{model}")
        return found if found is not None and _is_usable(found, num_images, what) else None

    rows: dict[str, dict[str, Array]] = {}
    for row in results.rows:
        for what in (*_PROBABILITIES, "kl"):
            by_seed = [found for seed in row.seeds if (found := of(what, f"{row.name}/{seed.seed}")) is not None]
            if by_seed and len(by_seed) == len(row.seeds):
                rows.setdefault(row.name, {})[what] = np.stack(by_seed)
    rows = {name: found for name, found in rows.items() if all(what in found for what in _PROBABILITIES)}
    teacher = {what: found for what in _PROBABILITIES if (found := of(what, "teacher")) is not None}
    indices = tensors.get(f"index/{results.split}")
    if indices is not None and (indices.shape != (num_images,) or indices.dtype.kind not in "iu"):
        indices = None
    if not rows and indices is None:
        return None
    return Certainty(indices, teacher if len(teacher) == len(_PROBABILITIES) else {}, rows)


def _is_usable(values: Array, num_images: int, what: str) -> bool:
    if values.shape != (num_images,) or values.dtype.kind != "f":
        return False
    known = values[np.isfinite(values)]
    return bool((known >= 0).all() and (what == "kl" or (known <= 1 + 1e-6).all()))
