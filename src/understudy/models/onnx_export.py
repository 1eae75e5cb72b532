"""A file to deploy: ONNX, held against torch before it is handed over, and timed."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from understudy.core.image_size import ImageSize, checked_size, height_and_width
from understudy.models.cost import Cost, cost_of, median_ms
from understudy.models.hub import first_line
from understudy.models.network import channels_of
from understudy.utils.errors import UserError
from understudy.utils.text import plural

__all__ = ["ExportReport", "export_onnx"]

_TOLERANCE = 1e-4  # largest difference to torch, relative to the largest logit where that is above 1
_CHECKED_BATCHES = (1, 3)  # none of them the size that the graph was traced with
_PROTOBUF_LIMIT_BYTES = 2**31  # what one file can hold; above it the weights go into a second file
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written, how well it agrees with torch, and what student and teacher cost."""

    file: Path
    num_bytes: int
    largest_difference: float  # to torch, relative to the largest logit where that is above 1
    image_size: ImageSize
    threads: int
    latency_ms: float  # of the file under onnxruntime, batch 1
    student: Cost
    teacher: Cost | None
    channels: int = 3

    def describe(self) -> str:
        """The report in plain lines."""
        height, width = height_and_width(self.image_size)
        lines = [
            f"{self.file}   {self.num_bytes / 1e6:.1f} MB   "
            f"largest difference to torch {self.largest_difference:.0e}   "
            f"{self.latency_ms:.1f} ms an image in onnxruntime, "
            f"{plural(self.threads, 'thread')}, batch 1",
            f"input    images (B,{self.channels},{height},{width}), "
            f"{'RGB ' if self.channels == 3 else ''}in [0,1]; normalised inside; any B",
        ]
        lines.append(_describe("student", self.student))
        if self.teacher is not None:
            lines.append(_describe("teacher", self.teacher))
        return "\n".join(lines)


def export_onnx(
    model: nn.Module,
    file: str | Path,
    *,
    image_size: ImageSize,
    teacher: nn.Module | None = None,
    teacher_image_size: ImageSize | None = None,
    threads: int | None = None,
) -> ExportReport:
    """Write `model` as ONNX: input "images" (B,D,H,W) in [0,1] with any B, output "logits" (B,C).

    The file appears once it agrees with torch under onnxruntime to 1e-4 on random images.

    Args:
        model: what `load_student` gives; it is left as it is, on its device.
        file: to write; one that is there is replaced.
        image_size: H = W in pixels, or (H, W).
        teacher: timed beside the student where given.
        teacher_image_size: the teacher's; None: `image_size`.
        threads: CPU threads to time with; None: as many as torch uses now.

    Raises:
        UserError: onnx or onnxruntime missing, an operation that ONNX lacks, or a file that does not agree.
    """
    _check_installed()
    image_size = checked_size(image_size)
    teacher_image_size = image_size if teacher_image_size is None else checked_size(teacher_image_size)
    file = Path(file)
    threads = threads or torch.get_num_threads()
    modes = {part: part.training for part in model.modules()}
    device = next(model.parameters(), torch.empty(0)).device
    try:
        model.eval().cpu()
        return _export(model, file, image_size, threads, teacher, teacher_image_size)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from None
    finally:
        model.to(device)
        for part, mode in modes.items():
            part.training = mode


def _export(
    model: nn.Module,
    file: Path,
    image_size: ImageSize,
    threads: int,
    teacher: nn.Module | None,
    teacher_image_size: ImageSize,
) -> ExportReport:
    file.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=file.parent, prefix=".exporting-") as half_way:
        _write(model, Path(half_way) / file.name, image_size)
        run = _runner(Path(half_way) / file.name, threads)
        difference = max(_difference(model, run, batch_size, image_size) for batch_size in _CHECKED_BATCHES)
        if not difference <= _TOLERANCE:
            raise UserError(
                f"{file}: not written, since onnxruntime differs from torch by {difference:.1e} on random images "
                f"(at most {_TOLERANCE:.0e} is accepted); is there randomness in the network's forward pass?"
            )
        one_image = torch.rand(1, channels_of(model), *height_and_width(image_size))
        latency = median_ms(lambda: run(one_image), threads=threads)
        num_bytes = sum(part.stat().st_size for part in Path(half_way).iterdir())
        for part in Path(half_way).iterdir():
            os.replace(part, file.parent / part.name)
    return ExportReport(
        file=file,
        num_bytes=num_bytes,
        largest_difference=difference,
        image_size=image_size,
        threads=threads,
        latency_ms=latency,
        student=cost_of(model, image_size=image_size, threads=threads),
        teacher=None if teacher is None else cost_of(teacher, image_size=teacher_image_size, threads=threads),
        channels=channels_of(model),
    )


def _write(model: nn.Module, file: Path, image_size: ImageSize) -> None:
    is_large = (
        sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) >= _PROTOBUF_LIMIT_BYTES
    )
    try:
        with _silence(), torch.no_grad():
            torch.onnx.export(
                model,
                (torch.rand(2, channels_of(model), *height_and_width(image_size)),),
                file,
                input_names=["images"],
                output_names=["logits"],
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=is_large,
                verbose=False,
            )
    except RuntimeError as error:  # the exporter's own errors are of this kind; their cause says what went wrong
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{file.name}: the network cannot be written as ONNX: {reason}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """torch's tracer says pages about what it cannot trace; its error's first line says it as well."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _runner(file: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """The file as a function from images to logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _difference(model: nn.Module, run: Callable[[Tensor], Tensor], batch_size: int, image_size: ImageSize) -> float:
    shape = (batch_size, channels_of(model), *height_and_width(image_size))
    images = torch.rand(shape, generator=torch.Generator().manual_seed(batch_size))
    with torch.no_grad():
        expected = model(images)
    return float((run(images) - expected).abs().max() / expected.abs().max().clamp(min=1))


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {' and '.join(missing)}; install with: pip install 'understudy[export]'")


def _describe(role: str, cost: Cost) -> str:
    return (
        f"{role}   {cost.num_parameters / 1e6:.2f} M parameters   {cost.macs_per_image / 1e6:.1f} M MACs   "
        f"{cost.latency_ms:.1f} ms an image in torch"
    )
