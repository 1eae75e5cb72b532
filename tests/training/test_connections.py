"""method.safetensors: what one run's methods have learnt, for another to start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from understudy import methods
from understudy.core.taps import TapShape
from understudy.methods.base import Context, Method, TapShapes
from understudy.training.connector_weights import load_connectors, save_connectors
from understudy.utils.errors import UserError


def projector(channels: int = 6, name: str = "projector") -> Method:
    shapes = TapShapes({"embedding": TapShape(channels)}, num_classes=4)
    config = methods.METHODS[name].Config()
    return config.method(config, Context(student=shapes, teacher=shapes, num_classes=4))


def test_connectors_come_back_from_file_student_folder_and_run(tmp_path: Path) -> None:
    first = projector()
    save_connectors(tmp_path / "run" / "student", [projector(name="kd"), first])

    for place in ("run", "run/student", "run/student/method.safetensors"):
        second = projector()
        assert not torch.equal(second.projector.weight, first.projector.weight)
        load_connectors(second, tmp_path / place)
        assert torch.equal(second.projector.weight, first.projector.weight)


def test_methods_without_connectors_leave_no_file(tmp_path: Path) -> None:
    save_connectors(tmp_path, [projector(name="kd")])
    assert list(tmp_path.iterdir()) == []


def test_two_methods_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    first, second = projector(), projector()
    save_connectors(tmp_path, [first, second])
    found = projector()
    load_connectors(found, tmp_path)
    assert torch.equal(found.projector.weight, first.projector.weight)


@pytest.mark.parametrize(
    ("channels", "name", "text"),
    [
        (6, "projector_ensemble", "holds nothing for 'projector_ensemble', only for projector"),
        (8, "projector", r"was made with other networks: projector.bias is \(6,\) there and \(8,\) here"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, channels: int, name: str, text: str) -> None:
    save_connectors(tmp_path, [projector()])
    with pytest.raises(UserError, match=text):
        load_connectors(projector(channels, name), tmp_path)


def test_a_place_without_connectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no method\.safetensors at .*; give a run that trained the method"):
        load_connectors(projector(), tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "method.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        load_connectors(projector(), tmp_path)
