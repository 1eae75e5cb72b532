"""`understudy analyze` where something of a run or of its analyses is gone, or is asked for wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from understudy.runs.analyses.base import Found
from understudy.runs.analyses.kept import Kept


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_a_piece_whose_tensors_are_lost_counts_as_not_done(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    kept = Kept(tmp_path, "similarity", {"a": 1})
    kept.add("kd/map", Found({"layers": 2}, {"cka": torch.ones(2)}), seconds=1.0, num_pieces=2)
    kept.add("alone", Found({"layers": 2}), seconds=1.0, num_pieces=2)
    assert "kd/map" in Kept(tmp_path, "similarity", {"a": 1})
    damage(tmp_path / "similarity.safetensors")
    again = Kept(tmp_path, "similarity", {"a": 1})
    assert "kd/map" not in again
    assert "alone" in again
