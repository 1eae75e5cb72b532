"""ONNX in whole numbers of 8 bits, their ranges chosen by images: static quantisation of onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from understudy.models.export.base import Format, Runner, Subject, silence
from understudy.models.export.onnx import ONNX_PACKAGES, describe, open_onnx, write_graph
from understudy.models.hub import first_line
from understudy.utils.errors import UserError

__all__ = ["Int8"]


class Int8(Format, name="int8"):
    """As ONNX, but convolutions and products in int8 (QDQ form), weights by channel; input and output of 32 bits."""

    title = "onnxruntime"
    needs = ONNX_PACKAGES
    tolerance = None  # what it costs is told by its scores

    def write(self, subject: Subject, file: Path) -> None:
        """The graph, run on the images of `calibration` to see what ranges its values take."""
        if not subject.calibration:
            raise UserError("int8: no images to calibrate on; give some of those that the student is to see")
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with TemporaryDirectory() as folder:
            plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
            write_graph(subject, plain)
            try:
                with silence():
                    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
                    quantize_static(
                        str(prepared),
                        str(file),
                        _Batches(subject.calibration),
                        quant_format=QuantFormat.QDQ,
                        per_channel=True,
                        activation_type=QuantType.QInt8,
                        weight_type=QuantType.QInt8,
                    )
            except Exception as error:  # its errors have no common type
                raise UserError(f"{file.name}: the network cannot be quantised: {first_line(error)}") from error
        describe(file, subject.about)

    def opened(self, file: Path, threads: int) -> Runner:
        """By onnxruntime on the CPU."""
        return open_onnx(file, threads=threads).run


class _Batches:
    """Batches as onnxruntime asks for them, one after the other and then None."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by the input's name."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.numpy()}
