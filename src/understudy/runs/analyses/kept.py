"""What an analysis has found so far, on the disk: NAME.json and NAME.safetensors, written anew after every piece."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from understudy.runs.analyses.base import Found
from understudy.utils.errors import UserError
from understudy.utils.files import write_atomically
from understudy.utils.text import json_text
from understudy.utils.untrusted import plain_json, text_of

__all__ = ["Kept"]

MAX_BYTES = 64_000_000
SCHEMA = 1


class Kept:
    """The pieces of one analysis; those that an earlier call kept count where it was about the same.

    Args:
        folder: where the two files go.
        name: of the analysis.
        identity: what its results depend on.
    """

    def __init__(self, folder: Path, name: str, identity: Mapping[str, Any]) -> None:
        self.file, self._tensors_file = folder / f"{name}.json", folder / f"{name}.safetensors"
        self._name = name
        self._identity = plain_json(json_text(identity))
        self._values: dict[str, Any] = {}
        self._tensors: dict[str, Tensor] = {}
        self._seconds = 0.0
        before = self._before()
        if before is not None:
            self._tensors = self._tensors_before()
            lost = {name.rpartition("/")[0] for name in before.get("tensors", ()) if name not in self._tensors}
            self._values = {key: values for key, values in before["pieces"].items() if key not in lost}
            self._seconds = float(before["seconds"])

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def add(self, key: str, found: Found, *, seconds: float, num_pieces: int) -> None:
        """Keep a piece."""
        self._values[key] = dict(found.values)
        self._tensors |= {
            f"{key}/{name}": tensor.detach().cpu().clone().contiguous() for name, tensor in found.tensors.items()
        }
        self._seconds += seconds
        self.write(num_pieces=num_pieces)

    def write(self, *, num_pieces: int, problem: str | None = None) -> None:
        """Write both files, the tensors first: a piece counts once the JSON names it."""
        self.file.parent.mkdir(exist_ok=True)
        if self._tensors:
            write_atomically(self._tensors_file, save(self._tensors))
        content = {
            "schema": SCHEMA,
            "what": self._name,
            "identity": self._identity,
            "problem": problem,
            "num_pieces": num_pieces,
            "seconds": round(self._seconds, 1),
            "pieces": self._values,
            "tensors": sorted(self._tensors),  # so that a piece whose tensors are lost is made again
        }
        write_atomically(self.file, json_text(content, indent=1).encode())

    def leave_out(self, problem: str) -> None:
        """Write why the analysis cannot be made, except over what an earlier call has found."""
        before = self._on_disk()
        if before is None or not before["pieces"]:
            self.write(num_pieces=0, problem=problem)

    def _before(self) -> dict[str, Any] | None:
        found = self._on_disk()
        return found if found is not None and found.get("identity") == self._identity else None

    def _on_disk(self) -> dict[str, Any] | None:
        try:
            found = plain_json(text_of(self.file, most_bytes=MAX_BYTES))
        except (UserError, ValueError):
            return None
        is_whole = isinstance(found, dict) and found.get("schema") == SCHEMA and isinstance(found.get("pieces"), dict)
        return found if is_whole else None

    def _tensors_before(self) -> dict[str, Tensor]:
        try:
            return load_file(self._tensors_file)
        except (OSError, ValueError, SafetensorError):
            return {}
