"""Exported files: the same numbers as torch, for any batch, with what it takes to use them."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from understudy.models import create_model
from understudy.models.export import FORMATS, Format, Subject, Written, write
from understudy.models.export.latency import latency
from understudy.models.export.onnx import Onnx, open_onnx
from understudy.utils.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")

ABOUT = {"classes": json.dumps(["Äffchen", "Öl & tanker"], ensure_ascii=False), "size": "[24, 24]"}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model(
        "cifar:resnet8", num_classes=10, weights="none", image_size=16, mean=(0.5,) * 3, std=(0.2,) * 3
    ).prepared


@pytest.fixture(scope="module")
def subject(model: nn.Module) -> Subject:
    calibration = torch.rand(2, 8, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    return Subject(model.train(), 24, ABOUT, list(calibration))


needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs pip install 'understudy[openvino]'"
)


Write = Callable[[Format], Written]


@pytest.fixture(scope="module")
def written(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a format once."""
    kept: dict[str, Written] = {}

    def once(format: Format) -> Written:
        name = f"{format.name}{sorted(vars(format).items())}"
        if name not in kept:
            kept[name] = write(subject, tmp_path_factory.mktemp("export") / "deep" / "student.file", format)
        return kept[name]

    return once


EXACT = [Onnx(), FORMATS["pt2"](), FORMATS["torchscript"]()]


@pytest.mark.parametrize("format", EXACT, ids=lambda format: format.name)
def test_a_file_agrees_with_torch_at_any_batch(written: Write, model: nn.Module, format: Format) -> None:
    run = format.opened(written(format).file, 1)
    for batch_size in (1, 2, 5):
        images = torch.rand(batch_size, 3, 24, 24)
        with torch.no_grad():
            assert (run(images) - model.eval()(images)).abs().max() < 1e-4
    assert 0 <= written(format).largest_difference < 1e-4


def test_onnx_is_one_file_with_the_weights_in_it(written: Write, model: nn.Module) -> None:
    file = written(Onnx()).file
    assert [part.name for part in file.parent.iterdir()] == ["student.file"]
    num_bytes = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert num_bytes < written(Onnx()).num_bytes == file.stat().st_size < 2 * num_bytes


def test_every_file_says_what_it_is_of(written: Write) -> None:
    for format in (Onnx(), Onnx(float16=True), FORMATS["int8"]()):
        about = open_onnx(written(format).file).about
        assert {name: about[name] for name in ABOUT} == ABOUT
    extra = dict.fromkeys(ABOUT, "")
    torch.export.load(written(FORMATS["pt2"]()).file, extra_files=extra)
    assert extra == ABOUT
    told = dict.fromkeys(ABOUT, "")
    torch.jit.load(str(written(FORMATS["torchscript"]()).file), _extra_files=told)
    assert {name: bytes(text).decode() if isinstance(text, bytes) else text for name, text in told.items()} == ABOUT


@needs_openvino
def test_openvino_agrees_with_torch_and_says_what_it_is_of(model: nn.Module, tmp_path: Path) -> None:
    import openvino

    native = create_model("cifar:resnet8", num_classes=10, weights="none", image_size=None).prepared
    made = write(Subject(native, 24, ABOUT), tmp_path / "ov", FORMATS["openvino"]())
    assert 0 <= made.largest_difference < 1e-4
    images = torch.rand(5, 3, 24, 24)
    with torch.no_grad():
        assert (FORMATS["openvino"]().opened(made.file, 1)(images) - native.eval()(images)).abs().max() < 1e-4
    read = openvino.Core().read_model(made.file / "student.xml")
    assert {name: read.get_rt_info(["understudy", name]).astype(str) for name in ABOUT} == ABOUT


@needs_openvino
def test_openvino_refuses_a_network_whose_resizing_it_would_change(subject: Subject, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this network resizes its images, antialiased, and OpenVINO cannot"):
        write(subject, tmp_path / "ov", FORMATS["openvino"]())
    assert not (tmp_path / "ov").exists()


def test_half_precision_halves_the_weights_and_keeps_input_and_output(written: Write, model: nn.Module) -> None:
    half = written(Onnx(float16=True))
    assert half.num_bytes < 0.65 * written(Onnx()).num_bytes
    assert 1e-6 < half.largest_difference < 5e-2
    session = onnxruntime.InferenceSession(str(half.file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": np.zeros((5, 3, 24, 24), np.float32)})
    assert (logits.shape, logits.dtype) == ((5, 10), np.float32)


def test_int8_weighs_a_third_and_says_nearly_the_same(written: Write, subject: Subject) -> None:
    int8 = written(FORMATS["int8"]())
    assert int8.num_bytes < 0.45 * written(Onnx()).num_bytes
    assert 1e-6 < int8.largest_difference < 0.2
    operations = {node.op_type for node in onnx.load(int8.file).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operations


def test_int8_without_images_to_calibrate_on_is_refused(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="int8: no images to calibrate on"):
        write(Subject(model, 24), tmp_path / "a.onnx", FORMATS["int8"]())
    assert list(tmp_path.iterdir()) == []


def test_an_opset_is_kept_or_refused(subject: Subject, tmp_path: Path) -> None:
    small = Subject(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), 4)
    write(small, tmp_path / "a.onnx", Onnx(opset=20))
    assert [one.version for one in onnx.load(tmp_path / "a.onnx").opset_import if not one.domain] == [20]
    for opset in (3, 1000):
        with pytest.raises(UserError, match=rf"b.onnx: --opset {opset} cannot be had|cannot be written as ONNX"):
            write(small, tmp_path / "b.onnx", Onnx(opset=opset))
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


class Restless(nn.Module):
    """Says something else each time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mean((2, 3))) + torch.rand(images.shape[0], 1)


def test_a_file_that_does_not_agree_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"restless.onnx: not written, since onnxruntime differs from torch by"):
        write(Subject(Restless(), 4), tmp_path / "restless.onnx", Onnx())
    assert list(tmp_path.iterdir()) == []


class DependsOnData(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("onnx", r"a.x: the network cannot be written as ONNX: \S+"),
        ("pt2", r"a.x: the network cannot be exported: \S+"),
    ],
)
def test_a_network_that_cannot_be_traced_is_said_so_in_one_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    with pytest.raises(UserError, match=text) as caught:
        write(Subject(DependsOnData(), 4), tmp_path / "a.x", FORMATS[name]())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_modes_are_put_back(tmp_path: Path) -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    module[2].eval()
    write(Subject(module, 4), tmp_path / "a.pt", FORMATS["torchscript"]())
    assert [part.training for part in module] == [True, True, False, True]


@pytest.mark.parametrize(
    ("name", "words", "extra"),
    [("onnx", "onnx and onnxscript", "export"), ("openvino", "openvino and onnx", "openvino")],
)
def test_missing_libraries_are_named_with_the_command_that_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str, extra: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"export needs {words}.*pip install .*'understudy\[{extra}\]'"):
        write(Subject(nn.Linear(1, 1), 4), tmp_path / "a", FORMATS[name]())


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"a.onnx cannot be read by onnxruntime: \S+"):
        open_onnx(tmp_path / "a.onnx")


def test_a_latency_is_a_median_and_a_ninth_decile_of_calls_with_so_many_threads() -> None:
    threads: list[int] = []
    taken = latency(lambda: threads.append(torch.get_num_threads()), threads=1, seconds=0.01)
    assert 0 < taken.p50 <= taken.p90 < 10
    assert set(threads) == {1}
    assert len(threads) >= 20
