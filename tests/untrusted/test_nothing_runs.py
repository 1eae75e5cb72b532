"""Files that would run code when they are read as their kind allows: refused, and the code did not run."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.command_line import DIGITS, DIGITS_ALONE, TEACHER, done, refused
from understudy import load_student
from understudy.models import create_model, save_student
from understudy.runs import checkpoint
from understudy.utils.errors import UserError

KINDS_OF_PICKLE = ["zip", "legacy", "bare"]


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture(autouse=True)
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there only if something ran; tests work in the folder beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "it-ran"


def harmful_bytes(marker: Path, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "bare":
        pickle.dump({"state_dict": Harmful(marker)}, buffer)
    else:
        torch.save({"state_dict": Harmful(marker)}, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


def test_the_harmful_pickle_of_these_tests_does_run_where_it_is_trusted(marker: Path) -> None:
    pickle.loads(harmful_bytes(marker, "bare"))
    assert marker.exists()


def test_a_recipe_with_code_of_one_heads_teacher_is_refused_unless_that_was_typed(marker: Path) -> None:
    Path("harmful.py").write_text(f"import pathlib\n\npathlib.Path({str(marker)!r}).touch()\n")
    Path("recipe.yaml").write_text("teacher: {also: {distilled2: {model: 'harmful:net'}}}\n")
    tokens = ("--student", "understudy:deit_conv_tiny", "--teacher", "cifar:resnet8", "--method", "deit")
    said = refused("train", "recipe.yaml", "--data", "digits", *tokens, "data.workers=0")
    assert not marker.exists()
    assert "would run code from harmful" in said


@pytest.mark.parametrize("kind", KINDS_OF_PICKLE)
@pytest.mark.parametrize("option", ["--teacher-weights", "--student-weights"])
def test_a_checkpoint_that_would_run_code_is_refused(marker: Path, kind: str, option: str) -> None:
    Path("a.pt").write_bytes(harmful_bytes(marker, kind))
    message = refused("train", *DIGITS, *TEACHER, option, "a.pt", "--method", "kd", "--out", "x")
    assert "refused, since it holds more than tensors" in message
    assert not marker.exists()


@pytest.mark.parametrize("kind", KINDS_OF_PICKLE)
def test_a_pickle_under_the_name_of_safetensors_is_read_as_safetensors(marker: Path, kind: str) -> None:
    Path("a.safetensors").write_bytes(harmful_bytes(marker, kind))
    message = refused("train", *DIGITS, *TEACHER, "--teacher-weights", "a.safetensors", "--method", "kd")
    assert "damaged, or no safetensors file" in message
    assert not marker.exists()


@pytest.mark.parametrize("kind", KINDS_OF_PICKLE)
def test_a_runs_own_checkpoint_that_would_run_code_is_passed_over_though_its_checksum_holds(
    marker: Path, kind: str
) -> None:
    content = harmful_bytes(marker, kind)
    Path("seed0-000000001.pt").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        checkpoint.load_latest(Path(), "seed0", say=lambda _: None)
    assert not marker.exists()


def test_cifar_batches_are_pickles_and_only_the_published_ones_are_read(marker: Path) -> None:
    folder = Path("cifar-10-batches-py")
    folder.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(harmful_bytes(marker, "bare"))
    assert "holds no whole cifar-10-batches-py" in refused("check", *DIGITS_ALONE, "--data", folder)
    assert not marker.exists()


@pytest.mark.parametrize("model", ["evil:net", "front_evil:net", "here.evil:net"])
def test_a_recipe_file_imports_no_code_unless_that_is_allowed(marker: Path, model: str) -> None:
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    for name in ("evil.py", "front_evil.py", "here/evil.py"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(code)
    Path("a.yaml").write_text(f"data: {{root: digits}}\nstudent: {{model: '{model}'}}\nepochs: 1\n")
    assert "allow" in refused("check", "a.yaml")
    assert not marker.exists()
    refused("check", "a.yaml", "--allow-code")  # the module makes the file, but has no network
    assert marker.exists()


def test_a_student_folder_imports_no_code_unless_that_is_allowed(marker: Path) -> None:
    save_student("s", create_model("cifar:resnet8", num_classes=3, weights="none"))
    config: dict[str, Any] = json.loads(Path("s/config.json").read_text())
    config["understudy"]["name"] = "front_evil_student:net"
    Path("s/config.json").write_text(json.dumps(config))
    Path("front_evil_student.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    with pytest.raises(UserError, match="code outside understudy"):
        load_student("s")
    assert not marker.exists()


def test_predictions_under_a_pickles_name_are_not_unpickled(marker: Path) -> None:
    done("train", *DIGITS_ALONE, "--out", "x")
    array = io.BytesIO()
    np.save(array, np.array([Harmful(marker)], dtype=object), allow_pickle=True)
    Path("x/predictions.safetensors").write_bytes(array.getvalue())
    done("report", "x")
    assert "predictions.safetensors could not be read" in Path("x/report.html").read_text()
    assert not marker.exists()
