"""SIGTERM and SIGINT: the step is finished, a checkpoint is written, and the run can go on."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest

from helpers.engine import run_recipe, tiny_recipe
from helpers.faulty_runs import Killing, Server, Tally, files_of, lost_bytes, recipe_file
from understudy import Batch
from understudy.data import EvalLoader
from understudy.runs.components import Components, open_components
from understudy.utils.interrupted import Interrupted

MOST_SECONDS = 10  # what schedulers wait before they kill


@pytest.mark.parametrize(
    ("number", "code", "times"),
    [
        pytest.param(signal.SIGTERM, 143, 2, id="SIGTERM twice"),
        pytest.param(signal.SIGTERM, 143, 10, id="SIGTERM ten times", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, 10, id="SIGINT ten times", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_stopped_by_a_signal_says_where_ends_in_time_and_goes_on(
    number: signal.Signals, code: int, times: int, server: Server, tmp_path: Path, tally: Tally
) -> None:
    killing = Killing.of(server, recipe_file(tmp_path, {"rows": ["kd+dot"], "epochs": 12}), tmp_path / "in peace/run")
    drawn, stopped, finished, lost = random.Random(code), 0, 0, 0
    while stopped < times:
        # The run listens from the first thing on that it says of its data.
        kill = {"after": drawn.uniform(0, 0.3), "signal": int(number), "once_said": "data     digits"}
        out = tmp_path / str(finished) / "run"
        ending = server.run(killing.recipe, out, kill=kill)
        if (out / "report.html").is_file():  # the signal came when all was trained
            lost += lost_bytes(out, killing.expected)
            finished += 1
            assert finished <= times + 3, f"only {stopped} of {finished + stopped} signals stopped the run"
            continue
        stopped += 1
        assert ending.code == code, ending.said
        assert "; the same command continues from here" in ending.said
        assert ending.end_seconds is not None
        assert ending.end_seconds < MOST_SECONDS
    ending = server.run(killing.recipe, out)
    assert ending.code == 0, ending.said
    lost += lost_bytes(out, killing.expected)
    tally(f"{number.name} while training", injected=stopped, recovered=stopped, lost_bytes=lost)


@dataclass
class Interrupting:
    """An evaluation loader in the midst of which a signal arrives."""

    loader: EvalLoader
    batches_given: list[int]
    skipped: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        return self.loader.num_samples

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.loader):
            if number == 1:
                signal.raise_signal(signal.SIGTERM)
            self.batches_given.append(number)
            yield batch


@dataclass(frozen=True)
class InterruptingParts(Components):
    """Parts with which the so-many-th evaluation of a split is interrupted."""

    when: tuple[str, int] = ("val", 1)
    count: dict[str, int] = field(default_factory=dict)
    batches_given: list[int] = field(default_factory=list)

    def eval_loader(self, split: str) -> EvalLoader:
        self.count[split] = self.count.get(split, 0) + 1
        loader = super().eval_loader(split)
        return Interrupting(loader, self.batches_given) if (split, self.count[split]) == self.when else loader


def parts_of() -> Components:
    recipe = tiny_recipe({"rows": ["kd"], "seeds": [0], "data": {"eval_batch_size": 20}})
    components = open_components(recipe, allow_code=False, say=lambda text: None)
    return replace(components, data=replace(components.data, test=components.data.val))


def interrupted_at(split: str, number: int) -> InterruptingParts:
    components = parts_of()
    return InterruptingParts(
        **{one.name: getattr(components, one.name) for one in fields(components)}, when=(split, number)
    )


@pytest.mark.parametrize(
    ("split", "number"),
    [
        pytest.param("val", 1, id="the teacher's"),
        pytest.param("val", 2, id="an epoch's"),
        pytest.param("test", 2, id="the last one, on the test images"),
    ],
)
def test_an_evaluation_is_not_waited_for(split: str, number: int, tmp_path: Path) -> None:
    def run_it(components: Components, out: Path) -> Path:
        return run_recipe(components.recipe, out, components=components).path

    expected = files_of(run_it(parts_of(), tmp_path / "in peace/run"))
    components = interrupted_at(split, number)
    with pytest.raises(Interrupted) as stopped:
        run_it(components, tmp_path / "run")
    assert stopped.value.signal == signal.SIGTERM
    assert components.batches_given == [0, 1]  # of five
    assert lost_bytes(run_it(parts_of(), tmp_path / "run"), expected) == 0
