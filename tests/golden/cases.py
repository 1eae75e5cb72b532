"""Golden cases: where they are, what is in one, and how near an answer has to come."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

_SHARED = Path(__file__).resolve().parents[3] / "shared"
_USUAL = os.pathsep.join(str(_SHARED / name) for name in ("golden", "golden-dense", "golden-successors"))
# Folders of golden methods, colons between them; a method may have cases in several.
FOLDERS = [Path(folder) for folder in os.environ.get("UNDERSTUDY_GOLDEN", _USUAL).split(os.pathsep) if folder]
ABSENT = f"no golden cases in {', '.join(str(folder) for folder in FOLDERS)}"


@dataclass(frozen=True)
class Case:
    """One golden case, its floating inputs in the dtype under test."""

    name: str  # "kd/a"
    hyper: dict[str, Any]  # hyperparameters by name
    inputs: dict[str, Tensor]  # those with a stored gradient require one
    expected: dict[str, Tensor]  # "loss", "grad.<input>", "out.<part>"
    rtol: float  # what the case itself asks for, in float64
    atol: float

    def __getitem__(self, name: str) -> Tensor:
        return self.inputs[name]

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """Gradient of `loss` for every input with a stored one; zeros where there is no path."""
        names = [name.removeprefix("grad.") for name in self.expected if name.startswith("grad.")]
        leaves = [self.inputs[name] for name in names]
        found = torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True)
        return {f"grad.{name}": gradient for name, gradient in zip(names, found, strict=True)}


def paths_of(method: str) -> list[Path]:
    """The case files of a golden method, as paths without suffix; empty where no folder has any."""
    return [path.with_suffix("") for folder in FOLDERS for path in sorted((folder / method).glob("*.json"))]


def methods_stored() -> list[str]:
    """Every golden method that a folder holds cases of."""
    return sorted({path.parent.name for folder in FOLDERS for path in folder.glob("*/*.json")})


def reference_is_finite_in_float32(path: Path) -> bool:
    """Whether the reference's own float32 run gave a finite loss."""
    value = json.loads(path.with_suffix(".json").read_text()).get("loss_value_float32_run")
    return value is None or math.isfinite(float(value))


def load(path: Path, dtype: torch.dtype) -> Case:
    """The case at `path`, computed in `dtype`."""
    notes = json.loads(path.with_suffix(".json").read_text())
    tensors = load_file(path.with_suffix(".safetensors"))
    inputs = {name: tensors[name] for name in notes["inputs"]}
    for name, tensor in inputs.items():
        if tensor.is_floating_point():
            inputs[name] = tensor.to(dtype).requires_grad_(f"grad.{name}" in tensors)
    tolerance = notes["tolerance_suggested"]
    return Case(
        name=f"{path.parent.name}/{path.name}",
        hyper={name: entry["value"] for name, entry in notes["hyperparameters"].items()},
        inputs=inputs,
        expected={name: tensor for name, tensor in tensors.items() if name not in inputs},
        rtol=float(tolerance["rtol"]),
        atol=float(tolerance["atol"]),
    )


def problem(name: str, answer: Tensor, case: Case, dtype: torch.dtype) -> str | None:
    """What is wrong with `answer` to the stored tensor `name`, or None."""
    expected = case.expected[name].double()
    answer = answer.detach().double()
    if answer.shape != expected.shape:
        return f"{name}: shape {tuple(answer.shape)}, stored {tuple(expected.shape)}"
    if not answer.isfinite().all():
        return f"{name}: not finite"
    if not expected.isfinite().all():
        return None  # the reference broke down; that ours did not is all there is to check
    error = (answer - expected).abs().max().item()
    allowed = _allowed(name, case, dtype)
    return None if error <= allowed else f"{name}: off by {error:.3g}, allowed {allowed:.3g}"


def _allowed(name: str, case: Case, dtype: torch.dtype) -> float:
    size = _size(case.expected[name])
    if dtype == torch.float64:
        return case.rtol * size + case.atol
    if not name.startswith("grad."):
        return max(1e-4, case.rtol) * size + max(1e-6, case.atol)  # 1e-6: rounding of a loss that should be zero
    # A gradient that should be zero (a bias before batch norm) is a sum of rounded ones as large as the others.
    largest = max(_size(stored) for other, stored in case.expected.items() if other.startswith("grad."))
    return max(1e-3, case.rtol) * size + 1e-5 * max(largest, 0.1)


def _size(stored: Tensor) -> float:
    return stored.double().abs().max().item()
