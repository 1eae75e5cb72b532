"""ONNX: written by torch, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.models.export.base import Format, Runner, Subject, silence
from understudy.models.hub import first_line
from understudy.utils.errors import UserError

__all__ = ["Onnx", "OnnxFile", "open_onnx", "write_graph"]

PROTOBUF_LIMIT_BYTES = 2**31  # what one file can hold; above it the weights go into a second file
OLD_EXPORTERS_OPSET = 18  # what the other one writes by default
HALF_TOLERANCE = 5e-2  # of float16 weights and activations, relative to the largest logit
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Onnx(Format, name="onnx"):
    """Input "images" (B,D,H,W) in [0,1] with any B, output "logits" (B,C), both of 32 bits.

    Of a detector: one image, and "boxes" (D,4), "labels" (D,) and "scores" (D,), of as many as are found.

    Args:
        opset: of ONNX's operations; None: torch's default.
        float16: weights and what is computed from them in half precision: half the size.
    """

    title = "onnxruntime"
    needs = ONNX_PACKAGES

    def __init__(self, *, opset: int | None = None, float16: bool = False) -> None:
        self.opset = opset
        self.float16 = float16
        if float16:
            self.tolerance = HALF_TOLERANCE

    def write(self, subject: Subject, file: Path) -> None:
        """The graph with its weights and what it says of itself."""
        if self.float16 and subject.finds:
            raise UserError(
                f"{file.name}: --float16 is not of detectors: half precision tells pixels of boxes apart by 0.5 only; "
                "leave it out, or take --int8"
            )
        write_graph(subject, file, opset=self.opset)
        if self.float16:
            _halve(file)
        describe(file, subject.about)

    def opened(self, file: Path, threads: int) -> Runner:
        """By onnxruntime on the CPU."""
        return open_onnx(file, threads=threads).run


@dataclass(frozen=True)
class OnnxFile:
    """A file that onnxruntime has read.

    Attributes:
        run: images to logits, or to a tuple of all outputs.
        about: what the file says of itself, texts by name.
        input_shape: of the images; words where a size is open.
    """

    run: Runner
    about: Mapping[str, str]
    input_shape: tuple[int | str | None, ...]


def open_onnx(file: Path, *, threads: int = 0) -> OnnxFile:
    """A file of one input, and of logits or several outputs.

    Args:
        file: of any origin.
        threads: of the CPU; 0: as onnxruntime chooses.

    Raises:
        UserError: onnxruntime is missing, or cannot read the file.
    """
    Onnx().check_installed()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    try:
        session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common type of their own
        raise UserError(f"{file} cannot be read by onnxruntime: {first_line(error)}") from None
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Any:
        found = tuple(torch.from_numpy(one) for one in session.run(None, {name: images.numpy()}))
        return found[0] if len(found) == 1 else found

    about = dict(session.get_modelmeta().custom_metadata_map)
    return OnnxFile(run, about, tuple(session.get_inputs()[0].shape))


def write_graph(subject: Subject, file: Path, *, opset: int | None = None) -> None:
    """The graph in 32 bits, without a word about itself.

    Raises:
        UserError: an operation that ONNX lacks, or an opset that cannot be had.
    """
    try:
        try:
            _export(subject, file, opset, by_older_one=subject.is_ragged)
        except (RuntimeError, ValueError):
            if subject.is_ragged or not subject.is_single:
                raise
            _export(subject, file, opset, by_older_one=True)  # D-FINE has an operation that the newer one lacks
    except (RuntimeError, ValueError) as error:  # the exporter's own errors; their cause says what went wrong
        reason = first_line(error.__cause__ or error)
        raise UserError(f"{file.name}: the network cannot be written as ONNX: {reason}") from error
    found = _opset_of(file)
    if opset is not None and found != opset:
        raise UserError(
            f"{file.name}: --opset {opset} cannot be had of this network; torch writes {found}, leave it out"
        )


def _export(subject: Subject, file: Path, opset: int | None, *, by_older_one: bool) -> None:
    """By one of torch's two exporters.

    The newer one cannot hold how many boxes non-maximum suppression leaves (torch 2.14, torchvision 0.29).
    """
    how: dict[str, Any] = {"dynamo": True, "dynamic_shapes": (_open_axes(subject),)}
    if by_older_one:
        open_axes = {name: {0: "found"} for name in subject.outputs} if subject.is_ragged else {}
        how = {"dynamo": False, "dynamic_axes": open_axes}
        opset = OLD_EXPORTERS_OPSET if opset is None else opset
    with silence(), torch.no_grad():
        torch.onnx.export(
            subject.model,
            (subject.example,),
            file,
            input_names=["images"],
            output_names=list(subject.outputs),
            opset_version=opset,
            external_data=_is_large(subject.model),
            verbose=False,
            **how,
        )


def _open_axes(subject: Subject) -> dict[int, Any]:
    """Axes of the images that are of any length."""
    if subject.is_single:
        return {}
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    return {**axes, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC} if subject.takes_any_size else axes


def describe(file: Path, about: Mapping[str, str]) -> None:
    """Add what the file says of itself, beside what it says already."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    onnx.helper.set_model_props(model, {**{item.key: item.value for item in model.metadata_props}, **about})
    onnx.save(model, file)


def _opset_of(file: Path) -> int:
    import onnx

    model = onnx.load(file, load_external_data=False)
    return next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))


def _halve(file: Path) -> None:
    """The same graph in half precision; input and output stay of 32 bits."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with silence():
        halved = convert_float_to_float16(onnx.load(file), keep_io_types=True)
        onnx.save(halved, file)


def _is_large(model: nn.Module) -> bool:
    sizes = (tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return bool(sum(sizes) >= PROTOBUF_LIMIT_BYTES)
