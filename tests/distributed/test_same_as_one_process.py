"""Two processes with a part of every batch each train as one process with the whole batch does."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.shared_steps import NUM_STEPS, Outcome, first_run, five_steps, too_far
from helpers.smallest_settings import OF_IMAGES
from helpers.two_processes import TwoProcesses
from understudy.methods import METHODS

REPRESENTATIVES = ("kd", "dist", "crd", "projector")  # rows for themselves, related, with a memory, with batch norm
METHOD_NAMES = OF_IMAGES
FIRST_STAGES = {"ft": "paraphraser", "sskd": "head", "hsakd": "heads"}  # of the methods that take two runs
# At its default of 0.1 the slopes of the soft ranks make rounding of 1e-7 a difference of 4e-5.
CONDITIONED: dict[str, Any] = {"dist_rank": {"method": {"rank_temperature": 1.0}}}
INDEPENDENT = sorted(name for name in OF_IMAGES if METHODS[name].rows == "independent")


def cases(names: list[str]) -> list[Any]:
    return [
        pytest.param(name, update, marks=() if name in REPRESENTATIVES else pytest.mark.slow, id=f"{name}-{update}")
        for name, update in product(names, ("joint", "dot", "deepkd"))
        if update != "deepkd" or METHODS[name].streams
    ]


def one_and_two(pair: TwoProcesses, *arguments: Any) -> tuple[Outcome, Outcome, Outcome]:
    """What one process ends with, and what each of the two."""
    pair.start(five_steps, *arguments)
    one = five_steps(*arguments)
    first, second = pair.finish()
    assert len(one.measures) == NUM_STEPS
    return one, first, second


@pytest.mark.parametrize(("method", "update"), cases(METHOD_NAMES))
def test_two_processes_equal_one_after_five_steps(method: str, update: str, pair: TwoProcesses) -> None:
    """Weights, connectors, memories, momenta and every term that is logged, to 1e-9."""
    one, first, second = one_and_two(pair, method, update)
    assert too_far(one, first, 1e-9) == {}
    # Each adds up the same sums, so that nothing may drift apart, in however long a run.
    assert all(torch.equal(tensor, second.state[name]) for name, tensor in first.state.items())
    assert first.measures == second.measures


@pytest.mark.parametrize(("method", "update"), cases(METHOD_NAMES))
def test_so_do_their_weights_in_single_precision(method: str, update: str, pair: TwoProcesses) -> None:
    """To 1e-5: weights and connectors; terms and momenta are the float64 test's, some lose digits by cancellation."""
    one, first, _ = one_and_two(pair, method, update, torch.float32, CONDITIONED.get(method))
    kept = [name for name in one.state if name.startswith(("/model/", "/connectors/"))]
    one, first = (Outcome({name: found.state[name] for name in kept}, []) for found in (one, first))
    assert kept
    assert too_far(one, first, 1e-5) == {}


@pytest.mark.slow
def test_they_do_on_a_weak_and_a_strong_view(pair: TwoProcesses) -> None:
    strong = {"name": "crop_flip", "pad": 1, "flip": False, "rand_augment": "rand-m9"}
    over = {"data": {"copies": "pairs", "second_augment": strong, "augment_on": "device"}}
    one, first, _ = one_and_two(pair, "mlld", "joint", torch.float64, over)
    assert too_far(one, first, 1e-9) == {}
    assert too_far(five_steps("mlld", "joint"), one, 1e-3) != {}  # whose second view is as weak as the first


@pytest.mark.slow
@pytest.mark.parametrize("update", ["joint", "dot"])
@pytest.mark.parametrize("method", FIRST_STAGES)
def test_they_do_in_the_second_of_two_runs(method: str, update: str, pair: TwoProcesses, tmp_path: Path) -> None:
    over = first_run(method, FIRST_STAGES[method], tmp_path)
    one, first, _ = one_and_two(pair, method, update, torch.float64, over)
    assert too_far(one, first, 1e-9) == {}


@pytest.mark.parametrize("update", ["joint", "dot"])
def test_they_do_where_labels_lie_unevenly_over_processes_and_passes(update: str, pair: TwoProcesses) -> None:
    one, first, _ = one_and_two(pair, "kd", update, torch.float64, None, True)
    assert too_far(one, first, 1e-9) == {}
    assert too_far(five_steps("kd", update), one, 1e-3) != {}
    in_two_passes, first, _ = one_and_two(pair, "kd", update, torch.float64, {"accumulate": 2}, True)
    assert too_far(one, in_two_passes, 1e-9) == {}
    assert too_far(one, first, 1e-9) == {}


@pytest.mark.parametrize("update", ["joint", "dot"])
def test_they_do_with_clipped_gradients_and_averaged_weights(update: str, pair: TwoProcesses) -> None:
    over = {"update": {"clip_norm": 0.5, "weight_decay": 0.1}, "ema": 0.5}
    one, first, _ = one_and_two(pair, "kd", update, torch.float64, over)
    assert any(name.startswith("/average/") for name in one.state)
    assert too_far(one, first, 1e-9) == {}
    assert too_far(five_steps("kd", update, torch.float64, {**over, "update": {"weight_decay": 0.1}}), one, 1e-3) != {}


@pytest.mark.parametrize(("method", "update"), cases(INDEPENDENT))
@pytest.mark.parametrize("accumulate", [2, 3])
def test_several_passes_of_rows_that_stand_alone_equal_one(
    method: str, update: str, accumulate: int, pair: TwoProcesses
) -> None:
    """In one process and in two, whose last batches have 3 and 4 rows."""
    in_one_pass = five_steps(method, update)
    one, first, _ = one_and_two(pair, method, update, torch.float64, {"accumulate": accumulate})
    assert too_far(in_one_pass, one, 1e-9) == {}
    assert too_far(in_one_pass, first, 1e-9) == {}


@pytest.mark.parametrize("update", ["joint", "dot"])
@pytest.mark.parametrize("method", ["dist", "projector"])
def test_related_rows_of_a_pass_are_those_of_all_processes(method: str, update: str, pair: TwoProcesses) -> None:
    """Two processes relate rows 0, 1, 4 and 5 of a batch of 8 in their first pass, one process rows 0 to 3."""
    over = {"accumulate": 2, "data": {"train_rows": "0:32"}}
    one, first, second = one_and_two(pair, method, update, torch.float64, over)
    assert all(torch.equal(tensor, second.state[name]) for name, tensor in first.state.items())
    assert first.measures[0]["task_loss"] == pytest.approx(one.measures[0]["task_loss"], rel=1e-12)
    assert first.measures[0]["distill"] != pytest.approx(one.measures[0]["distill"], rel=1e-6)
