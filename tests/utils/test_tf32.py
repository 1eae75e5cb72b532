"""How CUDA multiplies float32 numbers is set on purpose, and put back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.engine import run_recipe, tiny_recipe
from understudy.training.trainer import Trainer
from understudy.utils.machine import tf32


def precision() -> list[str]:
    return [torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision]


@pytest.mark.parametrize(("is_allowed", "expected"), [(True, "tf32"), (False, "ieee")])
def test_products_and_convolutions_are_alike_within_and_as_before_after(is_allowed: bool, expected: str) -> None:
    before = precision()
    with tf32(is_allowed):
        assert precision() == [expected] * 2
    assert precision() == before


@pytest.mark.parametrize(("settings", "expected"), [({}, "tf32"), ({"tf32": False}, "ieee")])
def test_a_run_trains_as_its_recipe_says(
    settings: dict[str, bool], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: set[str] = set()
    take_step = Trainer.take_step

    def watched(trainer: Trainer, batch: object) -> None:
        met.update(precision())
        take_step(trainer, batch)

    monkeypatch.setattr(Trainer, "take_step", watched)
    run_recipe(tiny_recipe({"epochs": 1, "seeds": [0], "rows": ["alone"], **settings}), tmp_path / "run")
    assert met == {expected}
