"""What a step can be told: precision, passes, averages, compilation; and what it does with numbers that are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.engine import (
    CPU,
    batches,
    plain_batches,
    read_metrics,
    run_recipe,
    small_teacher,
    spec_of,
    student_of,
    tiny_recipe,
)
from helpers.states import tensors_of
from understudy import Batch, Trainer, UserError, load_student
from understudy.core.batch import Losses, Pairing
from understudy.optim.ema import Averaging
from understudy.report import read_results
from understudy.tasks import BatchMeasures
from understudy.training.metrics import Measures, NotFinite, record_of


def trained_with(row: str, **options: Any) -> Trainer:
    teacher = small_teacher()
    student = student_of(replace(spec_of(row, dropout=0.0), **options), teacher)
    trainer = Trainer([student], teacher=teacher, device=CPU)
    trainer.fit(plain_batches(), epochs=2, val=plain_batches())
    return trainer


def without_norms(channels: int = 6) -> nn.Module:
    """A network that treats each image for itself."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))


class TestPrecision:
    @pytest.mark.parametrize("row", ["kd", "kd+dot", "dist", "projector"])
    def test_bfloat16_learns_what_float32_does_within_its_digits(self, row: str) -> None:
        full, half = (trained_with(row, precision=precision) for precision in ("float32", "bfloat16"))
        losses = [trainer.history[row][-1]["train"]["task_loss"] for trainer in (full, half)]
        assert losses[0] != losses[1]
        assert losses[1] == pytest.approx(losses[0], rel=0.02)

    @pytest.mark.parametrize("row", ["kd", "kd+dot", "projector"])
    def test_float16_learns_through_a_scaler_once_its_scale_has_settled(self, row: str) -> None:
        trainer = trained_with(row, precision="float16")
        scaler = trainer.students[0].scaler
        assert scaler is not None
        assert all(value.isfinite().all() for value in tensors_of(trainer.students[0]).values())
        assert scaler.get_scale() <= 65536.0

    def test_weights_stay_float32(self) -> None:
        trainer = trained_with("projector", precision="bfloat16")
        assert {value.dtype for value in trainer.students[0].model.parameters()} == {torch.float32}

    def test_the_scaler_comes_back_with_the_checkpoint(self) -> None:
        trainer = trained_with("kd", precision="float16")
        again = student_of(replace(spec_of("kd", dropout=0.0), precision="float16"), small_teacher())
        again.load_state_dict(trainer.students[0].state_dict())
        assert again.scaler is not None
        assert again.scaler.state_dict() == trainer.students[0].scaler.state_dict()


class TestAccumulation:
    @pytest.mark.parametrize("row", ["alone", "kd", "kd+dot"])
    @pytest.mark.parametrize("passes", [2, 3, 8])
    def test_several_passes_move_the_weights_as_one_does(self, row: str, passes: int) -> None:
        weights = []
        for count in (1, passes):
            teacher = small_teacher()
            spec = replace(spec_of(row), model=without_norms(), accumulate=count)
            student = student_of(spec, teacher)
            trainer = Trainer([student], teacher=teacher, device=CPU)
            trainer.fit(plain_batches(), epochs=2)
            weights.append((tensors_of(student), trainer.history[row][-1]["train"]))
        for name, value in weights[0][0].items():
            torch.testing.assert_close(weights[1][0][name], value, rtol=1e-4, atol=1e-6)
        assert weights[1][1] == pytest.approx(weights[0][1], rel=1e-5)

    def test_unlabelled_images_do_not_count_in_the_task_loss_of_any_pass(self) -> None:
        batch = batches()[0]
        some = Batch(batch.images, torch.where(torch.arange(8) < 5, -1, batch.targets))
        moved = []
        for count in (1, 4):
            student = student_of(replace(spec_of("alone"), model=without_norms(), accumulate=count))
            trainer = Trainer([student], teacher=None, device=CPU)
            trainer.begin(epochs=1, steps_per_epoch=1)
            trainer.take_step(some)
            moved.append(tensors_of(student))
        for name, value in moved[0].items():
            torch.testing.assert_close(moved[1][name], value, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("passes", [1, 4])
    def test_what_is_logged_of_half_labelled_batches_are_means_over_the_labelled_images(self, passes: int) -> None:
        labelled = [torch.arange(8) < 5, torch.zeros(8, dtype=torch.bool)]  # of the second batch nothing
        student = student_of(replace(spec_of("alone"), model=without_norms(), accumulate=passes))
        trainer = Trainer([student], teacher=None, device=CPU)
        trainer.begin(epochs=1, steps_per_epoch=2)
        first = batches()[0]
        student.train(False)
        said = student.predict(first)[labelled[0]]
        known = first.targets[labelled[0]]
        for batch, has_label in zip(batches(), labelled, strict=False):
            trainer.take_step(Batch(batch.images, torch.where(has_label, batch.targets, -1)))
        trainer.measures.close_interval()
        logged = trainer.measures.interval["alone"]
        assert logged["top1"] == pytest.approx(100 * (said.argmax(1) == known).double().mean().item())
        wanted = torch.nn.functional.cross_entropy(said, known).item()
        assert logged["task_loss"] == pytest.approx(wanted, rel=1e-5)
        assert logged["task"] == pytest.approx(wanted, rel=1e-5)

    def test_copies_are_not_torn_apart(self) -> None:
        with pytest.raises(UserError, match="accumulate: 2 would tear the copies of an image apart"):
            tiny_recipe({"accumulate": 2, "data": {"copies": "rotations"}})


class TestAverages:
    def test_the_averaged_weights_are_the_ones_that_are_evaluated_and_deployed(self) -> None:
        trainer = trained_with("kd", ema=Averaging(decay=0.5))
        student, images = trainer.students[0], batches()[0].images
        student.train(False)
        assert student.deployed() is not student.raw_deployed()
        assert torch.equal(student.predict(batches()[0]), student.deployed()(images))
        assert not torch.equal(student.deployed()(images), student.raw_deployed()(images))

    def test_they_are_the_running_mean_of_the_raw_ones(self) -> None:
        raw: list[Tensor] = []

        class Noting:
            def stepped(self, trainer: Trainer, *, is_last: bool) -> None:
                raw.append(trainer.students[0].model.module.fc.weight.detach().clone())

            def finished_epoch(self, trainer: Trainer) -> None: ...

        student = student_of(replace(spec_of("alone", dropout=0.0), ema=Averaging(decay=0.75)))
        expected = student.model.module.fc.weight.detach().clone()
        trainer = Trainer([student], teacher=None, device=CPU)
        trainer.fit(plain_batches(), epochs=1, watcher=Noting())
        for weight in raw:
            expected = 0.75 * expected + 0.25 * weight
        torch.testing.assert_close(student.deployed().fc.weight, expected)

    def test_both_are_scored_and_the_results_headline_the_averaged(self, tmp_path: Path) -> None:
        run = run_recipe(tiny_recipe({"ema": 0.5, "rows": ["alone"], "seeds": [0]}), tmp_path / "run")
        results = read_results(run.path)
        epochs = [line for line in read_metrics(run) if line["kind"] == "epoch"]
        seed = results.rows[0].seeds[0]
        assert (seed.selected.scores["top1"], seed.raw.scores["top1"]) == (
            epochs[-1]["val"]["top1"],
            epochs[-1]["val_raw"]["top1"],
        )
        assert seed.selected.scores["loss"] != seed.raw.scores["loss"]
        assert results.weights == "averaged"

    def test_the_student_that_is_saved_is_the_averaged_one(self, tmp_path: Path) -> None:
        recipe = tiny_recipe({"ema": 0.5, "rows": ["alone"], "seeds": [0]})
        run = run_recipe(recipe, tmp_path / "run")
        student = load_student(run.student)
        predictions = load_file(run.predictions_file)
        from understudy.runs.components import open_components

        parts = open_components(recipe, allow_code=False, say=lambda text: None)
        said = torch.cat([student(batch.images).argmax(1) for batch in parts.eval_loader("val")])
        assert torch.equal(said, predictions["val/alone/0"])


class TestSelection:
    def test_the_best_epochs_weights_are_what_a_selecting_run_deploys(self, tmp_path: Path) -> None:
        over = {"rows": ["alone"], "seeds": [0], "epochs": 5, "update": {"lr": 0.2}}
        last = read_results(run_recipe(tiny_recipe(over), tmp_path / "last").path).rows[0]
        run = run_recipe(tiny_recipe({**over, "select_on": "val"}), tmp_path / "best")
        best = read_results(run.path).rows[0]
        epochs = [line for line in read_metrics(run) if line["kind"] == "epoch"]
        top = max(epoch["val"]["top1"] for epoch in epochs)
        assert best.seeds[0].selected.scores["top1"] == top
        assert best.seeds[0].last.scores["top1"] == last.seeds[0].last.scores["top1"] == epochs[-1]["val"]["top1"]
        assert top > epochs[-1]["val"]["top1"], "this run must have its best epoch before its last, to show anything"

    def test_selecting_on_the_test_images_must_be_called_that(self) -> None:
        with pytest.raises(UserError, match="write select_on: test"):
            tiny_recipe({"select_on": "val", "data": {"val": "test", "val_rows": None}})


class TestWhatIsNoNumber:
    def test_step_and_term_are_named(self, tmp_path: Path) -> None:
        recipe = tiny_recipe({"update": {"lr": 1e30}, "rows": ["kd"], "seeds": [0]})
        with pytest.raises(UserError, match=r"kd: task_loss is (nan|inf) in step 2; training stopped"):
            run_recipe(recipe, tmp_path / "run")

    def test_the_first_bad_step_of_an_interval_is_named_whichever_row_met_it(self) -> None:
        measures = Measures(["one", "two"])
        pairing = Pairing(torch.zeros(4, 3), None, torch.zeros(4, dtype=torch.int64))
        measured = BatchMeasures({}, torch.tensor(4))
        for step in range(5, 10):
            for name in ("one", "two"):
                value = torch.tensor(float("inf") if (name, step) == ("two", 7) else 1.0)
                measures.add(name, record_of(Losses(torch.tensor(1.0), None, {"task_loss": value}), pairing, measured))
            measures.end_step(step)
        with pytest.raises(NotFinite, match="two: task_loss is inf in step 7"):
            measures.close_interval()

    def test_a_weight_that_is_none_is_never_saved(self) -> None:
        trainer = trained_with("kd")
        trainer.students[0].model.module.fc.bias.data[0] = float("nan")
        with pytest.raises(NotFinite, match="a weight is NaN or infinite"):
            trainer.check_finite()


class Synchronising(TorchDispatchMode):
    """Counts the operations that would make the host wait for an accelerator."""

    WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::masked_select", "aten::unique")

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith(self.WAITING):
            self.met.append(func.name())
        return func(*args, **(kwargs or {}))


class TestHostSynchronisation:
    @pytest.mark.parametrize("row", ["alone", "kd", "kd+dot", "dist", "projector"])
    def test_no_step_but_the_first_reads_anything_back(self, row: str) -> None:
        teacher = small_teacher()
        trainer = Trainer([student_of(spec_of(row), teacher)], teacher=teacher, device=CPU)
        trainer.begin(epochs=1, steps_per_epoch=3)
        trainer.take_step(batches()[0])  # the first one is checked, and settles what DOT must know
        with Synchronising() as watching:
            trainer.take_step(batches()[1])
        assert watching.met == []


class TestCompilation:
    @pytest.mark.slow
    @pytest.mark.parametrize("row", ["alone", "kd", "kd+dot", "projector"])
    def test_a_compiled_student_learns_what_an_eager_one_does(self, row: str) -> None:
        eager, compiled = (trained_with(row, compile=choice) for choice in (False, True))
        for name, value in tensors_of(eager.students[0]).items():
            torch.testing.assert_close(tensors_of(compiled.students[0])[name], value, rtol=1e-3, atol=1e-4)
        network = compiled.students[0]._compiled
        assert network is not None
