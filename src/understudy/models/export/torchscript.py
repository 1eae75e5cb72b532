"""TorchScript: a traced network, for C++ and for phones; torch keeps it, and recommends torch.export in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.models.export.base import Format, Runner, Subject, silence
from understudy.models.hub import first_line
from understudy.utils.errors import UserError

__all__ = ["TorchScript"]


class TorchScript(Format, name="torchscript"):
    """`torch.jit.load(FILE)` takes images (B,D,H,W) in [0,1] with any B; extra files say about it."""

    title = "TorchScript"

    def write(self, subject: Subject, file: Path) -> None:
        """The trace of two images, frozen, and one extra file for each thing that is said of it."""
        try:
            with silence(), torch.no_grad():
                traced = torch.jit.trace(subject.model, (subject.example,))  # type: ignore[no-untyped-call]
                extra = {name: text.encode() for name, text in subject.about.items()}
                torch.jit.save(torch.jit.freeze(traced), str(file), _extra_files=extra)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"{file.name}: the network cannot be traced: {first_line(error)}") from error

    def opened(self, file: Path, threads: int) -> Runner:
        """By torch, which takes the threads that it is set to."""
        with silence():
            module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]

        def run(images: Tensor) -> Any:
            with torch.no_grad():
                return module(images)

        return run
