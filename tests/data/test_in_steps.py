"""Trainings whose length is said in steps: parts that go on where the one before ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.engine import read_metrics, run_recipe, tiny_recipe
from understudy import UserError
from understudy.data import open_data, train_loader
from understudy.data.config import DataConfig
from understudy.data.loaders.in_steps import InSteps

CONFIG = DataConfig(root="digits", train_rows="0:80", val_rows="80:90", batch_size=32)


def loader() -> InSteps:
    return InSteps(train_loader(open_data(CONFIG), CONFIG, seed=0, image_size=8), 2)


def test_parts_run_through_passes_one_after_the_other() -> None:
    inner = train_loader(open_data(CONFIG), CONFIG, seed=0, image_size=8)  # three steps a pass
    whole = [batch for epoch in (1, 2) for batch in inner.epoch(epoch)]
    parts = [batch for part in (1, 2, 3) for batch in loader().epoch(part)]
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole, parts, strict=True))
    assert [batch.view for batch in parts] == [0, 0, 0, 1, 1, 1]


def test_one_loader_gives_what_a_fresh_one_gives_from_any_step_on() -> None:
    one = loader()
    for part in (1, 2, 3):
        expected = list(loader().epoch(part))
        assert all(torch.equal(a.images, b.images) for a, b in zip(one.epoch(part), expected, strict=True))
        (last,) = loader().epoch(part, 1)
        assert torch.equal(last.images, expected[1].images)


def test_a_run_takes_so_many_steps_and_is_evaluated_after_each_part(tmp_path: Path) -> None:
    run = run_recipe(tiny_recipe({"rows": ["alone"], "seeds": [0], "steps": 8, "epochs": 4}), tmp_path / "run")
    lines = read_metrics(run)
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3, 4]
    assert max(line["step"] for line in lines if line["kind"] == "train") == 8


def test_parts_that_are_not_equal_are_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"steps: 40000 are no 30 equal parts.* set epochs to one of 32, 25, 20"):
        tiny_recipe({"steps": 40_000, "epochs": 30})


def test_a_pass_is_begun_once_and_goes_on_from_part_to_part() -> None:
    inner, begun = train_loader(open_data(CONFIG), CONFIG, seed=0, image_size=8), []
    planned = inner.planned  # type: ignore[attr-defined]

    def counted(epoch: int, start_step: int = 0) -> Iterator[object]:
        begun.append((epoch, start_step))
        return planned(epoch, start_step)

    inner.planned = counted  # type: ignore[attr-defined]
    parts = InSteps(inner, 2)
    assert [len(list(parts.epoch(part))) for part in (1, 2, 3)] == [2, 2, 2]
    assert begun == [(1, 0), (2, 0)]
