"""The command line called in this process, and words and recipes for it."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from understudy.cli.app import main
from understudy.methods import METHODS

# 256 digits to train on, 128 to validate on, an eighth of a second an epoch.
FEW_DIGITS = ("data.train_rows=0:256", "data.val_rows=256:384", "student.kwargs={width: 0.25}")
ALL_METHODS = ", ".join(sorted(["none", *METHODS]))
DIGITS = ("--data", "digits", "--student", "cifar:resnet8", "--epochs", "1", *FEW_DIGITS)
DIGITS_ALONE = (*DIGITS, "--method", "alone")
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


DOCUMENT = Path(__file__).parents[2] / "docs" / "own-parts.md"


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
