"""The command that a run writes down, to be pasted."""

from __future__ import annotations

import shlex

import pytest

from understudy.utils.machine import describe_environment


def test_the_command_is_quoted_and_carries_the_variables_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/usr/bin/understudy", "train", "--data", "/home/me/own images", "student.kwargs={width: 1}"]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    command = shlex.split(describe_environment()["command"])
    assert command[command.index("understudy") :] == ["understudy", *words[1:]]
    assert {"OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1"} <= set(command)
    assert not any(word.startswith("CUDA_VISIBLE_DEVICES") for word in command)


def test_a_script_is_named_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["my distillation.py", "--fast"])
    assert describe_environment()["command"].endswith("python 'my distillation.py' --fast")


def test_processes_are_part_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/site/understudy/__main__.py", "train", "digits/demo"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    command = describe_environment()["command"]
    assert command.endswith("torchrun --nproc-per-node 2 -m understudy train digits/demo")
