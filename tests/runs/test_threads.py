"""CPU threads of a run: told, kept, or measured."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from helpers.command_line import RECIPE, done, refused
from understudy.models import Network, network_of
from understudy.recipes.schema import Recipe, recipe_from
from understudy.runs import threads as chosen
from understudy.runs.components import open_components
from understudy.runs.folder import RunFolder
from understudy.runs.threads import choose_threads, faster_threads, usable_threads
from understudy.utils.errors import UserError
from understudy.utils.machine import cpu_threads

BASE = yaml.safe_load(RECIPE)


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


class SlowWithMany(nn.Module):
    """A network whose pass waits, where threads are as many as told."""

    def __init__(self, slow: int) -> None:
        super().__init__()
        self.slow, self.head = slow, nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.get_num_threads() == self.slow:
            time.sleep(0.02)
        return self.head(images.mean((2, 3)))


def network(module: nn.Module) -> Network:
    return network_of(module, num_classes=2)


@pytest.mark.parametrize(("slow", "wanted"), [(2, 1), (1, 2)])
def test_the_number_of_threads_is_the_one_that_was_faster(slow: int, wanted: int) -> None:
    found = faster_threads(network(SlowWithMany(slow)), 2, image_size=8, batch_size=4)
    assert found.threads == wanted
    assert "ms with 1" in found.reason
    assert "ms with 2" in found.reason


def test_measuring_takes_well_under_a_second_and_changes_nothing() -> None:
    module = SlowWithMany(2)
    before, drawn = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    began, threads = time.perf_counter(), torch.get_num_threads()
    faster_threads(network(module), 2, image_size=8, batch_size=4)
    assert time.perf_counter() - began < 2.0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.head.weight.grad is None
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.get_num_threads() == threads


class Broken(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not here")


def test_a_network_that_fails_is_left_to_the_run_to_speak_of() -> None:
    assert faster_threads(network(Broken()), 2, image_size=8, batch_size=4).threads == 2


def test_no_more_threads_than_the_quota_has_cores_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with cpu_threads(4):
        monkeypatch.setattr(chosen, "cpu_quota", lambda: 1.5)
        assert usable_threads() == 2
        monkeypatch.setattr(chosen, "cpu_quota", lambda: 0.5)
        assert usable_threads() == 1
        monkeypatch.setattr(chosen, "cpu_quota", lambda: None)
        assert usable_threads() == 4


def choice(recipe: Recipe, file: Path, *, most: int = 1) -> tuple[int, str]:
    said: list[str] = []
    with cpu_threads(most):
        components = open_components(recipe, allow_code=False, say=said.append)
        found = choose_threads(components, file, say=said.append)
        assert torch.get_num_threads() == found
    return found, said[-1]


def test_what_is_told_is_done_and_written_down_and_kept_to(tmp_path: Path) -> None:
    file = tmp_path / "threads.json"
    assert choice(recipe_from(BASE, ["threads=2"]), file) == (2, "threads  2 CPU threads: as set")
    assert choice(recipe_from(BASE), file) == (2, "threads  2 CPU threads: as this run began")
    assert choice(recipe_from(BASE, ["threads=1"]), file)[0] == 1
    assert choice(recipe_from(BASE), file)[0] == 1


def test_where_one_thread_is_all_there_is_nothing_is_measured(tmp_path: Path) -> None:
    found, said = choice(recipe_from(BASE), tmp_path / "threads.json")
    assert (found, "no more can be used" in said) == (1, True)


def test_the_environment_tells_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choice(recipe_from(BASE), tmp_path / "t", most=2) == (2, "threads  2 CPU threads: OMP_NUM_THREADS is set")


def test_where_nothing_is_told_several_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "cpu_quota", lambda: 2.0)
    found, said = choice(recipe_from(BASE), tmp_path / "threads.json", most=2)
    assert found in (1, 2)
    assert "took" in said
    assert "; the CPU quota is of 2 cores" in said
    assert choice(recipe_from(BASE), tmp_path / "threads.json") == (
        found,
        f"threads  {found} CPU thread{'s' * (found > 1)}: as this run began",
    )


def test_a_damaged_choice_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "t").write_text('{"threads": 0, "reason": ""}')
    with pytest.raises(UserError, match="set threads=N"):
        choice(recipe_from(BASE), tmp_path / "t")


def test_a_run_that_is_cut_off_goes_on_under_other_settings_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE)
    done("train", "r.yaml", "--out", "x", "threads=2", "capture=false", "data.workers=1")
    run = RunFolder(Path("x"))
    assert json.loads(run.environment_file.read_text())["hardware"]["threads"] == 2
    run.results_file.unlink()
    run.report_file.unlink()
    said = done("train", "r.yaml", "--out", "x", "--workers", "0", "--device", "cpu", "log_every=7")
    assert "2 CPU threads: as this run began" in said
    assert "here 1, there 2" not in refused("train", "r.yaml", "--out", "x", "--threads", "1")
    assert torch.get_num_threads() == 1
