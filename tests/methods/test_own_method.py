"""A method of one's own, in one file: it is known by its name everywhere."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import understudy as us
from helpers.command_line import DIGITS, TEACHER, done, refused
from helpers.tiny import tiny_data, tiny_network, tiny_teacher
from understudy.methods import METHODS

MINE = '''\
import torch.nn.functional as F
from torch import nn

import understudy as us


class MyMethod(us.Method, name="mine"):
    """The student's embedding, mapped linearly, approaches the teacher's. My notebook. (M,D) vectors."""

    class Config(us.MethodConfig):
        strength: float = 1.0

    taps = us.Taps(student=("embedding",), teacher=("embedding",))

    def __init__(self, config, context):
        super().__init__(config, context)
        self.connector = nn.Linear(context.student["embedding"].channels, context.teacher["embedding"].channels)

    def forward(self, pairing):
        return {
            "mine": self.config.strength
            * F.mse_loss(
                self.connector(pairing.student_features["embedding"]), pairing.teacher_features["embedding"]
            )
        }
'''


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[us.Method]]:
    """The method, imported from its one file, and forgotten afterwards."""
    (tmp_path / "front_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield importlib.import_module("front_mine").MyMethod
    METHODS.pop("mine", None)
    sys.modules.pop("front_mine", None)


def test_it_is_listed_and_described() -> None:
    (line,) = (line for line in done("methods").splitlines() if line.startswith("mine "))
    assert line.endswith("The student's embedding, mapped linearly, approaches the teacher's")
    page = done("methods", "mine")
    assert page.startswith("# mine\n\nThe student's embedding, mapped linearly, approaches the teacher's.")
    assert "`strength` = 1.0" in page


def test_it_is_distilled_by_name_in_one_call() -> None:
    result = us.distill(
        tiny_teacher(),
        tiny_network(4),
        train=tiny_data(),
        method="mine",
        update="dot",
        epochs=3,
        batch_size=16,
        quiet=True,
    )
    assert [row.name for row in result.results.rows] == ["mine+dot"]
    lines = [json.loads(line) for line in result.run.metrics_file.read_text().splitlines()]
    terms = [line["terms"]["mine"] for line in lines if line["kind"] == "train"]
    assert terms[-1] < terms[0]


def test_its_settings_are_those_of_its_config(mine: type[us.Method]) -> None:
    config = mine.Config(strength=3.0, weight=0.5)
    result = us.distill(
        tiny_teacher(), tiny_network(4), train=tiny_data(), method=config, epochs=1, batch_size=16, quiet=True
    )
    assert result.results.rows[0].methods[0]["strength"] == 3.0
    assert us.methods.MyMethod is mine


def test_it_is_a_row_of_a_compare_with_and_without_dot() -> None:
    done("compare", *DIGITS, *TEACHER, "--rows", "alone,mine,mine+dot,kd+mine", "--out", "x")
    rows = json.loads(Path("x/results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["alone", "mine", "mine+dot", "kd+mine"]
    assert {row["name"]: row["update"]["name"] for row in rows}["mine+dot"] == "dot"


def test_its_connector_is_trained_with_the_student() -> None:
    loader = [tuple(tiny_data().tensors)]
    spec = us.StudentSpec(tiny_network(4), method=METHODS["mine"].Config(), update=us.DOT.Config())
    task, teacher = us.Classification(num_classes=3), us.LiveTeacher(tiny_teacher())
    trainer = us.trainer(task=task, teacher=teacher, students=[spec], sample=loader[0])
    connector = trainer.students[0].methods[0].method.connector
    before = connector.weight.detach().clone()
    trainer.fit(loader, epochs=1)
    assert not connector.weight.equal(before)


def test_its_misspelt_setting_is_refused_at_its_key() -> None:
    message = refused("check", *DIGITS, *TEACHER, "method={name: mine, strenght: 2}")
    assert "method.strenght unknown; did you mean strength?" in message


def test_the_command_line_is_taught_it_by_option() -> None:
    done("train", *DIGITS, *TEACHER, "--method", "mine", "--update", "dot", "--out", "x")
    assert json.loads(Path("x/results.json").read_text())["rows"][0]["methods"][0]["strength"] == 1.0


def test_another_method_of_its_name_is_refused() -> None:
    with pytest.raises(ValueError, match="there is a method 'mine' already: front_mine"):

        class Other(us.Method, name="mine"):
            """Another one."""

            class Config(us.MethodConfig):
                """Its settings."""
