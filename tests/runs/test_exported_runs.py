"""`understudy export` on finished runs: files with what it takes to use them, each scored and timed beside torch."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import understudy as us
from helpers.command_line import done, refused, understudy
from helpers.images import write_tree
from understudy.models.export.onnx import open_onnx

pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")

CLASSES = ("Äffchen", "b", "Öl & tanker")
TINY_CODE = """\
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, num_classes)

    def forward(self, images):
        return self.head(self.body(images))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of photographs of 24 pixels, with class names that are hard to write."""
    root = tmp_path_factory.mktemp("exported")
    photos = write_tree(root / "photos", dict.fromkeys(CLASSES, 8))
    words = ("--student", "cifar:resnet8", "student.kwargs={width: 0.25}", "threads=1", "data.workers=0")
    done("train", *words, "--method", "alone", "--data", photos, "--epochs", "2", "--out", root / "run")
    return root / "run"


@pytest.fixture(scope="module")
def said(run: Path) -> str:
    files = ("--onnx", run / "a.onnx", "--int8", run / "a8.onnx", "--torchscript", run / "a.pt")
    return done("export", run, *files)


def test_each_file_is_held_against_torch_scored_and_timed(said: str, run: Path) -> None:
    lines = said.splitlines()
    for line, name in zip(lines, ("a.onnx", "a8.onnx", "a.pt"), strict=False):
        assert re.search(
            rf"{re.escape(name)} +\d\.\d MB +largest difference to torch \S+ +\d+\.\d ms an image in", line
        )
    assert "input    images (B,3,24,24), RGB in [0,1]; normalised inside; any B" in lines
    assert "top-1    on val (3 images)" in lines or re.search(r"top-1 +on val \(\d images\)", said)
    heads = next(line for line in lines if "batch 32" in line)
    assert "1 thread, batch 1" in heads
    assert "1 thread, batch 32" in heads
    rows = {line.split()[0]: line for line in lines[lines.index(heads) + 1 : -1]}
    assert list(rows) == ["torch", "a.onnx", "a8.onnx", "a.pt"]
    score = re.compile(r"[kM]B +(\d+\.\d\d) +\S+ / \S+")
    assert len({score.search(rows[name])[1] for name in ("torch", "a.onnx", "a.pt")}) == 1  # type: ignore[index]
    assert lines[-1] == "in ms a batch, on the CPU: median / ninth decile"


def test_the_onnx_file_says_all_that_its_user_needs(said: str, run: Path) -> None:
    for name in ("a.onnx", "a8.onnx"):
        about = open_onnx(run / name).about
        assert json.loads(about["classes"]) == sorted(CLASSES)
        assert json.loads(about["size"]) == [24, 24]
        assert len(json.loads(about["mean"])) == len(json.loads(about["std"])) == 3
        assert json.loads(about["crop"]) == 1.0
        assert json.loads(about["exif_rotation"]) is True
        assert "mean and std are applied inside" in about["input"]


def test_the_example_needs_nothing_but_the_file_and_says_the_same(said: str, run: Path) -> None:
    pictures = sorted((run.parent / "photos").glob("*/0.jpg"))
    example = Path(__file__).parents[2] / "examples/onnx_predict.py"
    imported = set(re.findall(r"^(?:import|from) (\w+)", example.read_text(), re.MULTILINE))
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}
    words = [sys.executable, str(example), str(run / "a.onnx"), *map(str, pictures)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    for line, one in zip(lines, us.predict(run, pictures), strict=True):
        found = re.fullmatch(r"(.*): (.*) (\d+\.\d) %", line)
        assert found
        assert (found[1], found[2]) == (one.image, one.name)
        assert float(found[3]) == pytest.approx(100 * one.student[0].probability, abs=0.2)


def test_what_cannot_be_meant_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    assert "or --int8, --pt2, --torchscript FILE, --openvino FOLDER: what is to be written?" in refused("export", run)
    assert "--float16 is of --onnx FILE" in refused("export", run, "--float16", "--pt2", tmp_path / "a")
    assert "is named for two formats" in refused("export", run, "--onnx", tmp_path / "a", "--pt2", tmp_path / "a")
    assert "is a folder; name a file" in refused("export", run, "--onnx", tmp_path)
    if importlib.util.find_spec("openvino") is None:
        said = refused("export", run, "--openvino", tmp_path / "ov", "--pt2", tmp_path / "a")
        assert "export needs openvino; install with: pip install 'understudy[openvino]'" in said
    assert list(tmp_path.iterdir()) == []


def test_without_its_images_a_run_is_exported_and_not_scored(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    recipe = (copy / "recipe.yaml").read_text().replace("/photos", "/gone")
    (copy / "recipe.yaml").write_text(recipe)
    said = done("export", copy, "--torchscript", tmp_path / "a.pt")
    assert re.search(r"not scored: data.root: there is nothing at \S+/gone", said)
    assert (tmp_path / "a.pt").is_file()
    assert "--int8 needs images to calibrate on: data.root" in refused("export", copy, "--int8", tmp_path / "a8.onnx")
    here = run.parent / "photos"
    assert "photos, all of it (24 images)" in done("export", copy, "--torchscript", tmp_path / "a.pt", "--data", here)


def test_a_file_that_fails_leaves_the_others_and_says_so(run: Path, tmp_path: Path) -> None:
    said = understudy(
        "export", run, "--onnx", tmp_path / "a.onnx", "--opset", 3, "--torchscript", tmp_path / "a.pt", "--images", 0
    )
    assert said.code == 2
    assert "a.onnx" in said.err
    assert "a.pt" in said.out
    assert "top-1" not in said.out
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_what_distill_made_is_evaluated_and_exported_with_a_network_built_alike(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets_for_export.py").write_text(TINY_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    from nets_for_export import Net  # type: ignore[import-not-found]

    images = TensorDataset(torch.rand(12, 3, 24, 24), torch.arange(12) % 3)
    quick = {"method": "none", "epochs": 1, "out": "made", "quiet": True}
    us.distill(None, Net(3), train=images, val=images, classes=list(CLASSES), **quick)
    alike = ("--module", "nets_for_export:Net", "--allow-code")
    for command in (("evaluate", "made"), ("export", "made", "--torchscript", "a.pt")):
        assert "--module FILE.py:CLASS --allow-code here, module=... in Python" in refused(*command)
    assert "name images: --data FOLDER" in refused("evaluate", "made", *alike)
    photos = run.parent / "photos"
    assert "photos, all of it (24 images)   top-1" in done("evaluate", "made", "--data", photos, *alike)
    assert "not scored: made was made by understudy.distill" in done("export", "made", "--torchscript", "a.pt", *alike)
    assert torch.jit.load("a.pt")(torch.rand(2, 3, 24, 24)).shape == (2, 3)
    assert "would run code from nets_for_export" in refused("evaluate", "made", "--module", "nets_for_export:Net")
