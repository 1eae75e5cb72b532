"""PT2: the graph that torch.export takes of a network, for torch without the code of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.models.export.base import Format, Runner, Subject, silence
from understudy.models.hub import first_line
from understudy.utils.errors import UserError

__all__ = ["Pt2"]


class Pt2(Format, name="pt2"):
    """`torch.export.load(FILE).module()` takes images (B,D,H,W) in [0,1] with any B; extra files say about it.

    Of a segmenter any H and W, too, down to what its network can halve.
    """

    title = "torch.export"

    def write(self, subject: Subject, file: Path) -> None:
        """The exported program, and one extra file for each thing that is said of it."""
        if subject.is_ragged:
            raise UserError(
                f"{file.name}: torch.export cannot hold how many boxes non-maximum suppression leaves; take --onnx or "
                "--torchscript, or --raw"
            )
        try:
            with silence(), torch.no_grad():
                program = torch.export.export(subject.model, (subject.example,), dynamic_shapes=(_axes(subject),))
                torch.export.save(program, file, extra_files=dict(subject.about))
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{file.name}: the network cannot be exported: {first_line(error)}") from error

    def opened(self, file: Path, threads: int) -> Runner:
        """By torch, which takes the threads that it is set to."""
        with silence():
            module = torch.export.load(file).module()

        def run(images: Tensor) -> Any:
            with torch.no_grad():
                return module(images)

        return run


def _axes(subject: Subject) -> dict[int, Any]:
    """Which axes of the images are free."""
    axes: dict[int, Any] = {} if subject.is_single else {0: torch.export.Dim("batch", min=1)}
    return {**axes, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO} if subject.takes_any_size else axes
