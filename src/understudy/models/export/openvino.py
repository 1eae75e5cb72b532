"""OpenVINO: a folder of its intermediate representation, made of the ONNX graph."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from understudy.models.export.base import Format, Runner, Subject, silence
from understudy.models.export.onnx import ONNX_PACKAGES, write_graph
from understudy.models.hub import first_line
from understudy.utils.errors import UserError

__all__ = ["OpenVino"]

FILE = "student.xml"


class OpenVino(Format, name="openvino"):
    """A folder with student.xml and student.bin; input and output as those of ONNX, in 32 bits."""

    title = "OpenVINO"
    needs = ("openvino", *ONNX_PACKAGES)
    pip = "pip install 'understudy[openvino]'"

    def write(self, subject: Subject, file: Path) -> None:
        """The converted graph; what is said of it lies under `understudy` in its rt_info."""
        import openvino

        file.mkdir()
        with TemporaryDirectory() as folder, silence():
            plain = Path(folder) / "plain.onnx"
            write_graph(subject, plain)
            try:
                model = openvino.convert_model(str(plain))
                _refuse_antialiasing(model, file.name)
                for name, text in subject.about.items():
                    model.set_rt_info(text, ["understudy", name])
                openvino.save_model(model, str(file / FILE), compress_to_fp16=False)
            except RuntimeError as error:
                raise UserError(f"{file.name}: OpenVINO cannot take the network: {first_line(error)}") from error

    def opened(self, file: Path, threads: int) -> Runner:
        """On the CPU."""
        import openvino

        settings = {"INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # its default is bfloat16 on processors that have it
        compiled: Any = openvino.Core().compile_model(str(file / FILE), "CPU", settings)

        def run(images: Tensor) -> Any:
            made = compiled([images.numpy()])
            found = tuple(torch.from_numpy(made[place].copy()) for place in range(len(compiled.outputs)))
            return found[0] if len(found) == 1 else found

        return run


def _refuse_antialiasing(model: Any, name: str) -> None:
    """OpenVINO reads the attribute and resizes without it: other pixels, and other classes."""
    for node in model.get_ops():
        if node.get_type_name() == "Interpolate" and node.get_attributes()["antialias"]:
            raise UserError(
                f"{name}: this network resizes its images, antialiased, and OpenVINO cannot; train at the network's "
                "own size (--image-size), or write ONNX for onnxruntime (--onnx)"
            )
