"""What the documents show runs as it stands there."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.main import get_command

import understudy as us
from understudy.cli.app import app
from understudy.methods import METHODS
from understudy.utils.installed import GROUPS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))]


def blocks_of(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


class Brightness(nn.Module):
    """A teacher that knows its data: class k is the images that are k / 10 bright."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 10)
        with torch.no_grad():
            centres = torch.arange(10) / 10
            self.fc.weight.copy_(200 * centres[:, None])
            self.fc.bias.copy_(-100 * centres**2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(images.mean((1, 2, 3))[:, None])
        return logits


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a reader is taken to have: two networks and some data."""
    monkeypatch.chdir(tmp_path)
    labels = torch.arange(80) % 10
    train_set = TensorDataset((labels / 10)[:, None, None, None].expand(80, 3, 8, 8).clone(), labels)
    student = us.create_model("cifar:resnet8", num_classes=10, weights="none", kwargs={"width": 0.25}).module
    return {
        "torch": torch,
        "F": F,
        "teacher": Brightness(),
        "student": student,
        "train_set": train_set,
        "val_set": train_set,
        "loader": DataLoader(train_set, batch_size=40),
    }


def test_the_python_of_the_readme_runs_from_top_to_bottom(reader: dict[str, Any], tmp_path: Path) -> None:
    blocks = blocks_of("README.md", "python")
    before = [parameter.clone() for parameter in reader["student"].parameters()]

    for block in blocks:
        exec(compile(block, "README.md", "exec"), reader)

    assert len(blocks) == 3
    assert reader["result"].report("again.html").is_file()
    assert (tmp_path / "report.html").is_file()
    moved = [not torch.equal(old, new) for old, new in zip(before, reader["student"].parameters(), strict=True)]
    assert all(moved)


def test_the_method_of_the_guide_works_with_both_updates(reader: dict[str, Any]) -> None:
    (block,) = blocks_of("docs/own-method.md", "python")
    try:
        exec(compile(block, "own-method.md", "exec"), reader)
        method = reader["MyMethod"].Config(strength=2)
        specs = [
            us.StudentSpec(reader["student"], method=method),
            us.StudentSpec(copy.deepcopy(reader["student"]), method=method, update=us.DOT.Config()),
        ]
        trainer = us.trainer(
            task=us.Classification(num_classes=10),
            teacher=us.LiveTeacher(reader["teacher"]),
            students=specs,
            sample=next(iter(reader["loader"])),
        )
        connectors = [student.connectors[0].connector.weight.clone() for student in trainer.students]
        trainer.fit(reader["loader"], epochs=1)
    finally:
        METHODS.pop("mine", None)

    for student, before in zip(trainer.students, connectors, strict=True):
        assert not torch.equal(student.connectors[0].connector.weight, before)
    assert [student.name for student in trainer.students] == ["mine", "mine+dot"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_the_documents_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]

    missing = [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()]

    assert missing == []


def test_the_documents_name_every_entry_point_group_and_no_other() -> None:
    text = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("own-method.md", "own-parts.md"))
    named = re.findall(r"(?:entry-points\.\"|entry\s+point\s+group\s+`|group\s+`)([\w.]+)", text)
    assert set(named) == set(GROUPS)


def test_the_commands_of_the_documents_have_the_options_that_are_shown() -> None:
    commands = getattr(get_command(app), "commands")  # noqa: B009 - typer's type does not say so
    shown = 0
    for document in DOCUMENTS:
        blocks = re.findall(
            r"^ *```(?:bash)?\n(.*?)^ *```", (ROOT / document).read_text("utf-8"), re.DOTALL | re.MULTILINE
        )
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if line.strip().startswith("understudy ") else []
            if not words:
                continue
            known = {option for parameter in commands[words[1]].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known, f"{document}: {line}"
            shown += 1
    assert shown > 15
