"""What the tests of the command line, recipes and Python API share: calls in process, tiny data, tiny settings."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from understudy.cli.app import main
from understudy.methods import METHODS

torch.set_num_threads(1)

# 256 digits to train on, 128 to validate on, an eighth of a second an epoch.
FEW_DIGITS = ("data.train_rows=0:256", "data.val_rows=256:384", "student.kwargs={width: 0.25}")
ALL_METHODS = ", ".join(sorted(["none", *METHODS]))
DIGITS = ("--data", "digits", "--student", "cifar:resnet8", "--epochs", "1", *FEW_DIGITS)
TEACHER = ("--teacher", "cifar:resnet8", "--allow-weak-teacher")  # untrained: what it knows does not matter here

RECIPE = """\
data: {root: digits, train_rows: "0:256", val_rows: "256:384"}
teacher: {model: cifar:resnet8, allow_weak: true}
student: {model: cifar:resnet8, kwargs: {width: 0.25}}
method: {name: kd, temperature: 4}
epochs: 1
"""

OWN_CODE = """\
from torch import nn

def net(num_classes):
    head = nn.Linear(8, num_classes)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

def seven():  # classes, whatever the data has
    return net(7)
"""


DOCUMENT = Path(__file__).parents[1] / "docs" / "own-parts.md"


def documented(name: str) -> str:
    """The Python of docs/own-parts.md that defines a class or function."""
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (block for block in blocks if re.search(rf"^(class|def) {name}\(", block, re.M))
    return str(found)


def install(site: Path, module: str, code: str, *, group: str) -> None:
    """Lay down a package of one module, which an entry point of the group names, as an installer would."""
    about = site / f"{module}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{module.removeprefix('own_')} = {module}\n")
    (site / f"{module}.py").write_text(code)


@dataclass(frozen=True)
class Said:
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


def understudy(*words: str | Path) -> Said:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return Said(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def done(*words: str | Path) -> str:
    """What a command that must succeed printed."""
    said = understudy(*words)
    assert said.code == 0, said.err
    return said.out


def refused(*words: str | Path) -> str:
    """The one message of a command that a person has to mend, on one line."""
    said = understudy(*words)
    assert said.code == 2, said.out + said.err
    assert "Traceback" not in said.err
    message = re.sub(r"[\s╭╮╰╯│─]+", " ", said.err).strip()
    assert message
    return message


def write_tree(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (24, 24)) -> Path:
    """So many JPEGs of (height, width) in each folder of `counts`; a class is told by its colour."""
    for number, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{i}.jpg").write_bytes(jpeg_bytes(number, i, size))
    return root


def write_parquet(file: Path, labels: list[Any], image: str = "image", label: str = "label") -> Path:
    """A parquet file of JPEGs, one for each label."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": jpeg_bytes(int(number), i), "path": f"{i}.jpg"} for i, number in enumerate(labels)]
    pq.write_table(pa.table({image: images, label: labels}), file)
    return file


def jpeg_bytes(colour: int, seed: int, size: tuple[int, int] = (24, 24)) -> bytes:
    """A JPEG of noise, brightest in channel `colour` modulo 3."""
    pixels = np.random.default_rng(seed).integers(0, 100, (*size, 3), dtype=np.uint8)
    pixels[..., colour % 3] += 120
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def tiny_network(width: int, num_classes: int = 3) -> nn.Sequential:
    """(B,3,H,W) to (B,num_classes), from seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * width, num_classes),
        )


def tiny_data(num_images: int = 48) -> TensorDataset:
    """(3,8,8) float images of three classes, each brightest in its own channel."""
    labels = torch.arange(num_images) % 3
    images = torch.rand(num_images, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2
    images[torch.arange(num_images), labels] += 0.6
    return TensorDataset(images, labels)


def tiny_teacher() -> nn.Sequential:
    """A network that knows `tiny_data` by heart."""
    teacher, (images, labels) = tiny_network(16), tiny_data().tensors
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(images), labels).backward()
        optimizer.step()
    assert (teacher.eval()(images).argmax(1) == labels).all()
    return teacher
