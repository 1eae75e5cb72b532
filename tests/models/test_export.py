"""ONNX files: the same numbers as torch, in one file, for any batch."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy.models import create_model
from understudy.models.onnx_export import ExportReport, export_onnx
from understudy.utils.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model(
        "cifar:resnet8", num_classes=10, weights="none", image_size=16, mean=(0.5,) * 3, std=(0.2,) * 3
    ).prepared


@pytest.fixture(scope="module")
def written(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    file = tmp_path_factory.mktemp("export") / "deep" / "student.onnx"
    return export_onnx(model.train(), file, image_size=24, teacher=model, threads=1)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_file_agrees_with_torch_at_any_batch(written: ExportReport, model: nn.Module, batch_size: int) -> None:
    images = torch.rand(batch_size, 3, 24, 24)
    session = onnxruntime.InferenceSession(str(written.file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model.eval()(images).numpy()
    assert np.abs(logits - expected).max() < 1e-4


def test_the_weights_are_in_the_one_file(written: ExportReport, model: nn.Module) -> None:
    assert [file.name for file in written.file.parent.iterdir()] == ["student.onnx"]
    num_bytes = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert num_bytes < written.num_bytes == written.file.stat().st_size < 2 * num_bytes


def test_the_report_says_how_well_it_agrees_and_what_it_costs(written: ExportReport) -> None:
    assert 0 <= written.largest_difference < 1e-4
    assert written.teacher is not None
    assert written.student.macs_per_image == written.teacher.macs_per_image
    text = written.describe()
    for part in (
        "student.onnx",
        "largest difference to torch",
        "1 thread, batch 1",
        "(B,3,24,24)",
        "0.08 M",
    ):
        assert part in text


class Restless(nn.Module):
    """Says something else each time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mean((2, 3))) + torch.rand(images.shape[0], 1)


def test_a_file_that_does_not_agree_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"restless.onnx: not written, since onnxruntime differs from torch by"):
        export_onnx(Restless(), tmp_path / "restless.onnx", image_size=4, threads=1)
    assert list(tmp_path.iterdir()) == []


class DependsOnData(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


def test_a_network_that_cannot_be_traced_is_said_so_in_one_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"a.onnx: the network cannot be written as ONNX: \S+"):
        export_onnx(DependsOnData(), tmp_path / "a.onnx", image_size=4)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_modes_are_put_back(tmp_path: Path) -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    module[2].eval()
    export_onnx(module, tmp_path / "a.onnx", image_size=4, threads=1)
    assert [part.training for part in module] == [True, True, False, True]


def test_missing_libraries_are_named_with_the_command_that_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"export needs onnx and .*pip install 'understudy\[export\]'"):
        export_onnx(nn.Linear(1, 1), tmp_path / "a.onnx", image_size=4)
