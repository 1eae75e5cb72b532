"""A run that is over goes on where it is asked for with more epochs: one behaviour, to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import understudy as us
from helpers.displays import Eventful
from helpers.engine import read_metrics, reproducible_files, run_recipe, tiny_recipe
from helpers.states import differing
from helpers.tiny import tiny_data, tiny_network
from understudy.recipes.comparison import rows_of
from understudy.report import read_results
from understudy.runs.build import build_trainer
from understudy.runs.components import open_components
from understudy.runs.folder import RunFolder

NOTE = "learning rates: first as a run of 2 epochs, then from epoch 3 on as a run of 4"
# All that a run keeps from one epoch to the next: averages, the best epoch, two rows, two seeds, a trained teacher.
EVERYTHING = {"teacher": {"train_epochs": 1}, "ema": 0.9, "select_on": "val", "update": {"lr": 0.1}}


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two epochs."""
    return run_recipe(tiny_recipe(EVERYTHING), tmp_path_factory.mktemp("over") / "run")


def copy_of(run: RunFolder, folder: Path) -> Path:
    shutil.copytree(run.path, folder / "run")
    return folder / "run"


def longer(out: Path, settings: dict[str, Any] | None = None, **options: Any) -> RunFolder:
    return run_recipe(tiny_recipe({**EVERYTHING, "epochs": 4, **(settings or {})}), out, **options)


@pytest.fixture(scope="module")
def went_on(over: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return longer(copy_of(over, tmp_path_factory.mktemp("on")))


def test_it_goes_on_from_its_end_with_the_learning_rates_of_the_longer_run(tmp_path: Path) -> None:
    short, long = (tiny_recipe({"rows": ["kd+dot"], "seeds": [0], "epochs": epochs}) for epochs in (2, 4))
    run = run_recipe(short, tmp_path / "run")
    display = Eventful(0, 0, None)
    assert run_recipe(long, run.path, display=display).path == run.path
    assert (
        f"note     {run.path} holds a run of 2 epochs that is over: it goes on to 4, from epoch 3 on with the learning "
        "rates of a run of 4"
    ) in display.said
    parts = open_components(long, allow_code=False, say=lambda _: None)
    trainer = build_trainer(parts, rows_of(long), 0)
    for epochs in (2, 4):
        trainer.fit(parts.train_loader(0), epochs=epochs)
    expected = {name: value.contiguous() for name, value in trainer.students[0].deployed().state_dict().items()}
    assert differing(expected, load_file(run.student / "model.safetensors")) == []


def test_metrics_and_results_are_of_all_epochs_and_say_what_was_done(over: RunFolder, went_on: RunFolder) -> None:
    lines = [line for line in read_metrics(went_on) if line["kind"] == "epoch" and line["row"] != "teacher"]
    found = {(line["row"], line["seed"]): [] for line in lines}
    for line in lines:
        found[line["row"], line["seed"]].append(line["epoch"])
    assert set(found) == {(row, seed) for row in ("alone", "kd+dot") for seed in (0, 1)}
    assert all(epochs == [1, 2, 3, 4] for epochs in found.values())
    assert went_on.metrics_file.read_bytes().startswith(over.metrics_file.read_bytes())
    results = read_results(went_on.path)
    assert results.epochs == 4
    assert NOTE in results.data.notes
    assert NOTE in went_on.report_file.read_text(encoding="utf-8")
    assert NOTE not in read_results(over.path).data.notes
    for row in results.rows:
        for seed in row.seeds:
            top1 = [line["val"]["top1"] for line in lines if (line["row"], line["seed"]) == (row.name, seed.seed)]
            assert (seed.best.scores["top1"], seed.selected.epoch, seed.last.epoch) == (
                max(top1),
                1 + top1.index(max(top1)),
                4,
            )
    assert differing(*(load_file(run.teacher / "model.safetensors") for run in (over, went_on))) == []


@pytest.mark.parametrize(
    ("stretch", "step"),
    [
        pytest.param(1, 0, id="at once", marks=pytest.mark.slow),
        pytest.param(1, 8, id="first seed", marks=pytest.mark.slow),
        pytest.param(2, 7, id="second seed"),
    ],
)
def test_one_that_is_cut_off_as_it_goes_on_ends_as_if_it_had_not_been(
    stretch: int, step: int, over: RunFolder, went_on: RunFolder, tmp_path: Path
) -> None:
    def cut_off() -> None:
        raise KeyboardInterrupt

    out = copy_of(over, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        longer(out, display=Eventful(stretch, step, cut_off))
    assert reproducible_files(longer(out)) == reproducible_files(went_on)


@pytest.mark.slow
def test_one_that_was_cut_off_before_it_went_on_is_finished_as_it_was_or_goes_on(
    over: RunFolder, went_on: RunFolder, tmp_path: Path
) -> None:
    for epochs, expected in ((2, over), (4, went_on)):
        out = copy_of(over, tmp_path / str(epochs))
        (out / "results.json").unlink()
        assert reproducible_files(longer(out, {"epochs": epochs})) == reproducible_files(expected)


@pytest.mark.slow
def test_it_goes_on_a_second_time(went_on: RunFolder, tmp_path: Path) -> None:
    results = read_results(longer(copy_of(went_on, tmp_path), {"epochs": 5}).path)
    assert f"{NOTE}, then from epoch 5 on as a run of 5" in results.data.notes


@pytest.mark.parametrize(
    "settings", [{"epochs": 2}, {"epochs": 1}, {"ema": 0.8}], ids=["as many epochs", "fewer epochs", "another setting"]
)
def test_nothing_else_makes_a_run_go_on_that_is_over(settings: dict[str, Any], over: RunFolder, tmp_path: Path) -> None:
    out = copy_of(over, tmp_path)
    with pytest.raises(us.UserError, match="holds a finished run; take another --out, or --overwrite to replace it"):
        longer(out, settings)
    assert reproducible_files(RunFolder(out)) == reproducible_files(over)


def test_without_its_last_checkpoints_it_is_refused_and_left_as_it_is(over: RunFolder, tmp_path: Path) -> None:
    out = copy_of(over, tmp_path)
    (out / "checkpoints/seed1-end.pt").unlink()
    with pytest.raises(us.UserError, match=r"holds a finished run; .*cannot go on to 4 epochs: seed1-end\.pt is gone"):
        longer(out)
    assert reproducible_files(RunFolder(out)) == reproducible_files(over)


def test_a_last_checkpoint_that_is_damaged_is_refused(over: RunFolder, tmp_path: Path) -> None:
    out = copy_of(over, tmp_path)
    (out / "checkpoints/seed0-end.pt").write_bytes(b"damaged")
    with pytest.raises(us.UserError, match=r"cannot go on to 4 epochs: seed0-end\.pt is damaged"):
        longer(out)
    assert reproducible_files(RunFolder(out)) == reproducible_files(over)


def test_distill_goes_on_in_its_folder_and_only_with_the_same_networks(tmp_path: Path) -> None:
    def distill(epochs: int, width: int = 4) -> us.Result:
        given = {"train": tiny_data(), "method": "none", "batch_size": 16, "quiet": True, "out": tmp_path / "x"}
        return us.distill(None, tiny_network(width), epochs=epochs, **given)

    first = distill(1)
    with pytest.raises(us.UserError, match="holds a finished run"):
        distill(2, width=6)
    second = distill(2)
    assert second.results.epochs == 2
    assert not torch.equal(*(nn_vector(result.student) for result in (first, second)))


def nn_vector(module: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(module.parameters())
