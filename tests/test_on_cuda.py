"""The step on a GPU: the same numbers as on the CPU, in every precision, compiled, and as CUDA graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.engine import batches, run_recipe, small_teacher, spec_of, tiny_recipe
from helpers.states import differing, flat, tensors_of
from understudy import Batch, Joint, Trainer
from understudy.core.precision import Precision
from understudy.optim.ema import Averaging
from understudy.recipes.comparison import rows_of
from understudy.report import read_results
from understudy.runs.build import build_trainer
from understudy.runs.components import open_components
from understudy.tasks import Classification
from understudy.training.build import BuildContext, build_student, tap_teacher

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")

ROWS = ["alone", "kd", "kd+dot", "dist", "projector"]
OTHERS = ["nadam", "rmsprop", "rmsprop_tf", "lion"]  # optimizers whose own steps cannot be captured


def trained(row: str, device: str, *, steps: int = 6, dtype: torch.dtype = torch.float32, **options: Any) -> Trainer:
    """After so many steps, in one epoch, on the same batches."""
    place = torch.device(device)
    teacher = small_teacher()
    teacher.model.to(place, dtype)
    teacher.compile = options.get("compile", False)
    spec = replace(spec_of(row, dropout=0.0), **options)
    spec.model.to(place, dtype)
    tap_teacher(teacher, spec.methods)
    sample = batches()[0].images.to(place, dtype)
    around = BuildContext(task=Classification(10), num_classes=10, sample=sample, teacher=teacher)
    student = build_student(spec, around)
    student.connectors.to(dtype)
    trainer = Trainer([student], teacher=teacher, device=place, log_every=2)
    data = [(batch.images.to(dtype), batch.targets) for batch in batches(steps, last=8)]
    trainer.fit(data, epochs=1)
    return trainer


@pytest.mark.parametrize("row", ROWS)
def test_a_gpu_and_a_cpu_take_the_same_steps(row: str) -> None:
    there, here = (trained(row, device, dtype=torch.float64) for device in ("cuda", "cpu"))
    for name, value in tensors_of(here.students[0]).items():
        torch.testing.assert_close(tensors_of(there.students[0])[name].cpu(), value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", OTHERS)
def test_other_optimizers_take_the_same_steps_too(optimizer: str) -> None:
    """On a GPU by numbers that lie there, on the CPU by their own steps, in which NAdam keeps a product in 32 bits."""
    update = Joint.Config(optimizer=optimizer, lr=0.01)
    there, here = (trained("kd", device, dtype=torch.float64, update=update) for device in ("cuda", "cpu"))
    for name, value in tensors_of(here.students[0]).items():
        torch.testing.assert_close(tensors_of(there.students[0])[name].cpu(), value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("row", ROWS)
def test_bfloat16_learns_what_float32_does_within_its_digits(row: str) -> None:
    full, half = trained(row, "cuda"), trained(row, "cuda", precision="bfloat16")
    losses = [trainer.history[row][-1]["train"]["task_loss"] for trainer in (full, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert {value.dtype for value in half.students[0].model.parameters()} == {torch.float32}


@pytest.mark.parametrize("row", ROWS)
def test_float16_learns_through_a_scaler(row: str) -> None:
    trainer = trained(row, "cuda", precision="float16", steps=12)  # the first few only find its scale
    losses = [
        trainer.history[row][-1]["train"]["task_loss"],
        trained(row, "cuda", steps=12).history[row][-1]["train"]["task_loss"],
    ]
    assert all(value.isfinite().all() for value in tensors_of(trainer.students[0]).values())
    assert losses[0] == pytest.approx(losses[1], rel=0.25)


@pytest.mark.parametrize("how", [True, "reduce-overhead"])
@pytest.mark.parametrize("row", ROWS)
def test_compiled_networks_and_cuda_graphs_take_the_steps_of_eager_ones(row: str, how: bool | str) -> None:
    torch._dynamo.reset()
    eager, fast = trained(row, "cuda"), trained(row, "cuda", compile=how)
    for name, value in tensors_of(eager.students[0]).items():
        torch.testing.assert_close(tensors_of(fast.students[0])[name], value, rtol=1e-3, atol=1e-4)
    assert fast.history[row][-1]["train"] == pytest.approx(eager.history[row][-1]["train"], rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("row", ROWS)
def test_no_step_but_the_first_waits_for_the_gpu(row: str, precision: Precision) -> None:
    teacher = small_teacher()
    teacher.model.to("cuda")
    spec = replace(spec_of(row), precision=precision)
    spec.model.to("cuda")
    tap_teacher(teacher, spec.methods)
    sample = batches()[0].images.to("cuda")
    around = BuildContext(task=Classification(10), num_classes=10, sample=sample, teacher=teacher)
    trainer = Trainer([build_student(spec, around)], teacher=teacher, device=torch.device("cuda"))
    trainer.begin(epochs=1, steps_per_epoch=3)
    on_device = [Batch(batch.images.cuda(), batch.targets.cuda()) for batch in batches()]
    trainer.take_step(on_device[0])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")  # torch itself raises where something waits
    try:
        trainer.take_step(on_device[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def rows_trained(capture: Any, rows: list[str] = ROWS, *, dropout: float = 0.0, **options: Any) -> Trainer:
    """All rows under one teacher, 24 steps in three epochs."""
    teacher = small_teacher()
    teacher.model.to("cuda")
    specs = [replace(spec_of(row, dropout=dropout), **options) for row in rows]
    for spec in specs:
        spec.model.to("cuda")
    tap_teacher(teacher, [config for spec in specs for config in spec.methods])
    sample = batches()[0].images.to("cuda")
    around = BuildContext(task=Classification(10), num_classes=10, sample=sample, teacher=teacher)
    students = [build_student(spec, around) for spec in specs]
    trainer = Trainer(
        students, teacher=teacher, device=torch.device("cuda"), log_every=4, capture=capture, say=lambda note: None
    )
    trainer.fit([(batch.images, batch.targets) for batch in batches(8, last=5)], epochs=3)
    return trainer


CHANGES = [{"ema": Averaging(decay=0.9)}, {"ema": Averaging(decay=0.9, warmup=True)}, {"accumulate": 2}]


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5}, {"precision": "bfloat16"}, {"compile": True}, *CHANGES])
def test_captured_steps_are_the_steps_themselves_bit_for_bit(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    plain, captured = rows_trained(False, **options), rows_trained(True, **options)
    assert captured._captured.num_replays > 10
    for ours, theirs in zip(plain.students, captured.students, strict=True):
        for name, value in tensors_of(ours).items():
            assert torch.equal(tensors_of(theirs)[name], value), f"{ours.name}: {name}"
        if ours.average is not None and theirs.average is not None:
            assert differing(flat(ours.average.state_dict()), flat(theirs.average.state_dict())) == []
    assert plain.history == captured.history


@pytest.mark.parametrize("optimizer", OTHERS)
def test_captured_steps_are_the_steps_themselves_under_other_optimizers(optimizer: str) -> None:
    update = Joint.Config(optimizer=optimizer, lr=0.01, clip_norm=1.0)
    plain, captured = (rows_trained(capture, ["kd"], update=update) for capture in (False, True))
    assert captured._captured.num_replays > 10
    assert differing(tensors_of(plain.students[0]), tensors_of(captured.students[0])) == []
    assert plain.history == captured.history


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw"])
def test_captured_steps_in_float16_are_the_steps_themselves(optimizer: str) -> None:
    """A scale that halves as long as gradients are infinite: the first steps are skipped."""
    rows = ["alone", "kd", "dist"]
    options: dict[str, Any] = {"update": Joint.Config(optimizer=optimizer, lr=0.01, clip_norm=1.0)}
    if optimizer == "sgd":
        rows, options = ROWS, {}
    plain, captured = (rows_trained(capture, rows, precision="float16", **options) for capture in (False, True))
    assert captured._captured.num_replays > 10
    for ours, theirs in zip(plain.students, captured.students, strict=True):
        assert differing(tensors_of(ours), tensors_of(theirs)) == []
        assert ours.scaler is not None
        assert theirs.scaler is not None
        assert ours.scaler.get_scale() == theirs.scaler.get_scale()
    assert plain.history == captured.history


def made_in_the_step(capture: Any, data: dict[str, Any]) -> Trainer:
    """Two epochs of seven steps, whose batches are made of images on the device."""
    recipe = tiny_recipe({"device": "cuda", "capture": capture, "rows": ["kd", "kd+dot"], "seeds": [0], "data": data})
    components = open_components(recipe, allow_code=False, say=lambda note: None)
    trainer = build_trainer(components, rows_of(recipe), 0)
    trainer.fit(components.train_loader(0), epochs=2)
    return trainer


@pytest.mark.parametrize("mix", [None, {}, {"mode": "elem", "prob": 0.8}], ids=str)
def test_captured_steps_make_and_mix_their_batches(mix: dict[str, Any] | None) -> None:
    data = {"augment": {"name": "crop_flip", "pad": 2}, "mix": mix, "batch_size": 12}
    plain, captured = (made_in_the_step(capture, data) for capture in (False, True))
    assert captured._captured.num_replays > 5
    for ours, theirs in zip(plain.students, captured.students, strict=True):
        assert differing(tensors_of(ours), tensors_of(theirs)) == []
    assert plain.history == captured.history


def test_batches_are_mixed_as_on_the_cpu() -> None:
    data = {"augment": {"name": "crop_flip", "pad": 2}, "mix": {}, "batch_size": 12}
    there, here = (
        open_components(
            tiny_recipe({"device": device, "rows": ["kd"], "data": data}), allow_code=False, say=lambda note: None
        ).train_loader(0)
        for device in ("cuda", "cpu")
    )
    for ours, theirs in zip(there.epoch(1), here.epoch(1), strict=True):
        assert torch.equal(ours.targets.cpu(), theirs.targets)
        torch.testing.assert_close(ours.images.cpu(), theirs.images, rtol=1e-6, atol=1e-6)


def test_captured_steps_draw_on_where_plain_ones_would() -> None:
    plain, captured = rows_trained(False, dropout=0.5), rows_trained(True, dropout=0.5)
    for ours, theirs in zip(plain.students, captured.students, strict=True):
        there = theirs.random_state.state_dict()
        assert all(torch.equal(there[name], value) for name, value in ours.random_state.state_dict().items())


def test_a_capture_that_fails_leaves_a_trainer_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(trainer: Trainer, batch: Batch) -> Any:
        if torch.cuda.is_current_stream_capturing():
            batch.images.sum().item()
        return whole(trainer, batch)

    whole = Trainer.replayable_step
    plain = rows_trained(False, ["kd"], dropout=0.5)
    monkeypatch.setattr(Trainer, "replayable_step", waits)
    fallen = rows_trained("auto", ["kd"], dropout=0.5)
    assert fallen._captured.problem is not None
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.rand(3, device="cuda")
    for name, value in tensors_of(plain.students[0]).items():
        assert torch.equal(tensors_of(fallen.students[0])[name], value), name


def test_a_replay_that_misses_what_python_does_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved_later(trainer: Trainer, batch: Batch) -> Any:
        taken.append(batch)
        with torch.no_grad():
            for parameter in trainer.students[0].model.parameters():
                parameter.mul_(1.0 if len(taken) < 5 else 0.5)
        return whole(trainer, batch)

    taken: list[Batch] = []
    whole = Trainer.replayable_step
    monkeypatch.setattr(Trainer, "replayable_step", halved_later)
    plain = rows_trained(False, ["kd"])
    taken.clear()
    found_out = rows_trained("auto", ["kd"])  # the fourth step is recorded, the fifth is the first to be replayed
    assert found_out._captured.problem is not None
    assert found_out._captured.num_replays == 1
    for name, value in tensors_of(plain.students[0]).items():
        assert torch.equal(tensors_of(found_out.students[0])[name], value), name


@pytest.mark.parametrize("row", ROWS)
def test_a_captured_row_of_several_is_the_row_alone(row: str) -> None:
    together, alone = rows_trained(True), rows_trained(True, [row])
    (student,) = alone.students
    (same,) = [other for other in together.students if other.name == student.name]
    for name, value in tensors_of(student).items():
        assert torch.equal(tensors_of(same)[name], value), name


@pytest.mark.parametrize(
    "settings", [{}, {"precision": "bfloat16"}, {"precision": "float16"}, {"compile": True}, {"capture": True}]
)
def test_a_run_from_a_recipe_ends_with_results(settings: dict[str, Any], tmp_path: Path) -> None:
    recipe = tiny_recipe({"device": "cuda", "rows": ["alone", "kd", "kd+dot"], "seeds": [0], **settings})
    run = run_recipe(recipe, tmp_path / "run")
    assert {row.name for row in read_results(run.path).rows} == {"alone", "kd", "kd+dot"}
