"""What probes leave in a run folder: a line of metrics for each look, and probes/NAME.safetensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from understudy.runs.folder import RunFolder
from understudy.training.probing import Probing
from understudy.utils.files import write_atomically
from understudy.utils.text import json_text
from understudy.utils.untrusted import plain_json

__all__ = ["ABSENT", "probe_lines", "save_probes"]

ABSENT = "absent"  # in the metadata of a file


def probe_lines(probing: Probing, *, seed: int) -> Iterator[dict[str, Any]]:
    """The lines of looks that have not been written yet."""
    for line in probing.new_lines():
        yield {"kind": "probe", "seed": seed, **line}


def save_probes(run: RunFolder, probing: Probing, *, seed: int) -> None:
    """Write what the probes of a seed have seen so far: `ROW/SEED/NAME` (K, ...) beside those of other seeds.

    The metadata of a file say under "absent", as JSON, of which `ROW/SEED` nothing was to be seen, and why.
    """
    problems = probing.problems()
    found = probing.tensors()
    for name in {*found, *problems}:
        run.probes.mkdir(exist_ok=True)
        file = run.probes / f"{name}.safetensors"
        tensors, notes = _before(file)
        of_seed = f"/{seed}"
        tensors = {key: value for key, value in tensors.items() if key.rpartition(of_seed + "/")[0] not in found[name]}
        for row, series in found.get(name, {}).items():
            tensors |= {f"{row}{of_seed}/{key}": value.contiguous() for key, value in series.items()}
        notes |= {f"{row}{of_seed}": why for row, why in problems.get(name, {}).items()}
        # In one entry: of several, safetensors does not keep the order, and the bytes would differ each time.
        write_atomically(file, save(tensors, metadata={ABSENT: json_text(dict(sorted(notes.items())))}))


def _before(file: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the file holds by now; nothing where it is not there, or not whole."""
    try:
        with safe_open(file, framework="pt") as opened:
            notes = plain_json((opened.metadata() or {}).get(ABSENT, "{}"))
        return load_file(file), {str(key): str(why) for key, why in notes.items()} if isinstance(notes, dict) else {}
    except (OSError, ValueError, SafetensorError):
        return {}, {}
