"""Fewer images to evaluate on than there are processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.engine import CPU, tiny_recipe
from helpers.two_processes import TwoProcesses
from understudy import Classification, UserError
from understudy.data import eval_loader
from understudy.distributed.launch import joined
from understudy.runs.components import open_components


def scores_of_one_image() -> tuple[int, dict[str, float], list[int]]:
    """How many batches this process has of a single image, and what both together find."""
    data = open_components(tiny_recipe({"data": {"val_rows": "1000:1001"}}), allow_code=False, say=lambda _: None).data
    with joined() as world:
        loader = eval_loader(data.val, tiny_recipe().data, image_size=8, rank=world.rank, world_size=world.size)
        scores = Classification(10).evaluate({"it": lambda batch: torch.eye(10)[batch.targets]}, loader, CPU, world)[
            "it"
        ]
        return len(list(loader)), scores.scores, scores.predictions.tolist()


def scores_of_nothing() -> Any:
    with joined() as world, pytest.raises(UserError, match="there are no images to evaluate on"):
        Classification(10).evaluate({"it": lambda batch: batch.images}, [], CPU, world)


def test_a_process_without_images_adds_up_nothing(pair: TwoProcesses) -> None:
    pair.start(scores_of_one_image)
    (first, *found), (second, *others) = pair.finish()
    assert sorted([first, second]) == [0, 1]
    assert found == others
    assert found[0]["top1"] == 100.0
    assert found[0]["loss"] == pytest.approx(torch.eye(10)[0].logsumexp(0).item() - 1)


def test_no_images_at_all_are_refused_on_every_process(pair: TwoProcesses) -> None:
    pair.start(scores_of_nothing)
    assert pair.finish() == [None, None]
