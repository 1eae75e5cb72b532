"""Commands on what a run left: `predict`, `export`, `push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.options import AllowCode, BoxesOption, DataOption, MasksOption, ModuleOption

__all__ = ["export", "predict", "push"]


def predict(
    student: Annotated[Path, typer.Argument(metavar="RUN|STUDENT|FILE.onnx", help="What answers.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, and folders of them.")],
    topk: Annotated[int, typer.Option(metavar="K", min=1, help="So many of the likeliest classes, or boxes.")] = 3,
    format: Annotated[str, typer.Option("--format", metavar="table|csv|jsonl", help="Of the answers.")] = "table",
    teacher: Annotated[
        bool, typer.Option("--teacher", help="The teacher's answers beside the student's, or those of all teachers.")
    ] = False,
    masks: MasksOption = None,
    boxes: BoxesOption = None,
    module: ModuleOption = None,
    allow_code: AllowCode = False,
) -> None:
    """Say what is on pictures: names of classes and their probabilities, and of a detector where they are."""
    from understudy.cli import commands

    how = commands.Answering(topk=topk, format=format, teacher=teacher, masks=masks, boxes=boxes)
    commands.predict(student, images, how, module=module, allow_code=allow_code)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    onnx: Annotated[Path | None, typer.Option(metavar="FILE", help="ONNX, of any batch.")] = None,
    opset: Annotated[int | None, typer.Option(metavar="N", help="Of --onnx; 18 or more.")] = None,
    float16: Annotated[bool, typer.Option("--float16", help="Of --onnx: half precision inside.")] = False,
    int8: Annotated[
        Path | None, typer.Option(metavar="FILE", help="ONNX in whole numbers, calibrated on training images.")
    ] = None,
    pt2: Annotated[Path | None, typer.Option(metavar="FILE", help="A program of torch.export.")] = None,
    torchscript: Annotated[Path | None, typer.Option(metavar="FILE", help="A traced network.")] = None,
    openvino: Annotated[Path | None, typer.Option(metavar="FOLDER", help="OpenVINO, where it is installed.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Of a detector: all boxes and scores, without suppression.")
    ] = False,
    image_size: Annotated[
        str | None, typer.Option("--image-size", metavar="HxW", help="Of a detector's file; the largest by default.")
    ] = None,
    data: DataOption = None,
    images: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Score on so many validation images; all by default.")
    ] = None,
    module: ModuleOption = None,
    allow_code: AllowCode = False,
) -> None:
    """Write the student into files to deploy, and print size, accuracy and latency of each beside torch's."""
    from understudy.cli import commands

    exports = commands.Exports(
        onnx=onnx,
        opset=opset,
        float16=float16,
        int8=int8,
        pt2=pt2,
        torchscript=torchscript,
        openvino=openvino,
        image_size=image_size,
        raw=raw,
    )
    typer.echo(commands.export(run, exports, data=data, images=images, module=module, allow_code=allow_code))


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or the folder of one of its students.")],
    to: Annotated[str, typer.Option("--to", metavar="USER/NAME", help="The repository; made where it is missing.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="For the card, such as apache-2.0; none is assumed.")
    ] = None,
) -> None:
    """Send a student to the Hugging Face hub: weights as safetensors, JSON and the model card, nothing else."""
    from understudy.runs.push import push_student

    typer.echo(push_student(run, to, dry_run=dry_run, private=private, license=license))
