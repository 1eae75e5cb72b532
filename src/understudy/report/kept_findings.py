"""What `understudy analyze` and probes have left in a run folder, as figures read it: checked, and small enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from understudy.utils.errors import UserError
from understudy.utils.untrusted import plain_json, shown, text_of

__all__ = ["Findings", "Looks", "floats", "read_findings", "read_looks", "why_absent"]

Floats = npt.NDArray[np.float64]
MAX_BYTES = 64_000_000
MAX_TENSOR_BYTES = 512_000_000


@dataclass(frozen=True, slots=True)
class Findings:
    """One analysis of a run.

    Attributes:
        problem: why it could not be made; None: it could.
        pieces: what was found out, by piece.
        tensors: by "PIECE/NAME".
        is_whole: whether no piece is missing.
        num_images: that were looked at.
    """

    problem: str | None
    pieces: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, npt.NDArray[Any]]
    is_whole: bool
    num_images: int


@dataclass(frozen=True, slots=True)
class Looks:
    """What one probe has seen of one row: seeds side by side where all looked at the same steps.

    Attributes:
        places: (K,) "step" and "epoch" of each look, by name.
        values: (S, K, ...) by name.
    """

    places: Mapping[str, npt.NDArray[Any]]
    values: Mapping[str, Floats]


def read_findings(folder: Path, name: str) -> Findings | None:
    """The analysis of that name in a run folder; None where there is none.

    Raises:
        ValueError: it cannot be read.
    """
    file = folder / "analysis" / f"{name}.json"
    if not file.is_file():
        return None
    try:
        found = shown(plain_json(text_of(file, most_bytes=MAX_BYTES)))
    except UserError as error:
        raise ValueError(str(error)) from None
    problem, pieces = found.get("problem"), found["pieces"]
    if not isinstance(pieces, dict) or not all(isinstance(piece, dict) for piece in pieces.values()):
        raise ValueError("its pieces are no mappings")
    tensors = _tensors(file.with_suffix(".safetensors"))
    return Findings(
        problem=None if problem is None else str(problem),
        pieces=pieces,
        tensors=tensors,
        is_whole=len(pieces) == found.get("num_pieces"),
        num_images=int(found["identity"]["num_images"]),
    )


def read_looks(folder: Path, name: str, rows: Sequence[str], seeds: Sequence[int]) -> dict[str, Looks] | None:
    """What a probe has seen, by row; None where the run had no such probe.

    Raises:
        ValueError: it cannot be read.
    """
    file = folder / "probes" / f"{name}.safetensors"
    if not file.is_file():
        return None
    tensors = _tensors(file)
    found = {}
    for row in rows:
        by_seed = [_of(tensors, f"{row}/{seed}/") for seed in seeds]
        by_seed = [one for one in by_seed if "step" in one]
        if not by_seed:
            continue
        first = by_seed[0]
        alike = [one for one in by_seed if np.array_equal(one["step"], first["step"]) and one.keys() == first.keys()]
        names = [name for name in first if name not in ("step", "epoch")]
        stacked = {name: np.stack([one[name] for one in alike]).astype(np.float64) for name in names}
        found[row] = Looks({key: first[key] for key in ("step", "epoch")}, stacked)
    return found


def why_absent(folder: Path, name: str) -> str | None:
    """Why a probe saw nothing of some row, as its file says; None where it does not."""
    try:
        with safe_open(folder / "probes" / f"{name}.safetensors", framework="np") as opened:
            notes = plain_json((opened.metadata() or {}).get("absent", "{}"))
    except (OSError, ValueError, SafetensorError):
        return None
    whys = sorted({str(shown(why)) for why in notes.values()}) if isinstance(notes, dict) else []
    return "; ".join(whys) or None


def floats(values: Any) -> Floats:
    """Numbers of a JSON list as an array, NaN for null.

    Raises:
        ValueError, TypeError: no numbers.
    """
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _tensors(file: Path) -> dict[str, npt.NDArray[Any]]:
    if not file.is_file():
        return {}
    if file.stat().st_size > MAX_TENSOR_BYTES:
        raise ValueError(f"{file.name} is larger than {MAX_TENSOR_BYTES:,} bytes")
    try:
        return load_file(file)
    except (OSError, SafetensorError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from None


def _of(tensors: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
