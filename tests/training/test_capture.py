"""Captured steps: replays of one recording equal steps that Python goes through, bit for bit."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor

from helpers.captured_steps import captured, data, plain, specs_of, trainer_of
from helpers.engine import CPU, SmallNet, batches, small_net, spec_of
from helpers.recorded_ops import recorded_ops
from helpers.states import tensors_of
from understudy import Batch, Joint, Trainer, UserError, methods
from understudy.optim.ema import Averaging
from understudy.optim.schedule import Schedule
from understudy.training.capture import CapturedSteps, PlainSteps, step_problem
from understudy.training.spec import StudentSpec
from understudy.utils.seeding import RandomState, seeded


def assert_equal(one: Trainer, other: Trainer) -> None:
    for ours, theirs in zip(one.students, other.students, strict=True):
        for name, value in tensors_of(ours).items():
            assert torch.equal(tensors_of(theirs)[name], value), f"{ours.name}: {name}"
    assert one.history == other.history


@pytest.mark.parametrize("rows", [["alone", "kd"], ["kd+dot"], ["dist", "projector", "kd+dot"]])
def test_replayed_steps_are_the_steps_themselves(rows: list[str]) -> None:
    falling = Schedule(name="cosine", warmup_epochs=1)
    ends = []
    for take in (plain, captured):
        trainer = trainer_of(specs_of(rows, schedule=falling, ema=Averaging(decay=0.9)))
        steps = take(trainer)
        trainer.fit(data(), epochs=3)
        ends.append(trainer)
    assert steps.problem is None
    # Of 27 steps three are taken first and one is recorded; the last of each epoch has another size.
    assert (steps.num_recordings, steps.num_replays) == (1, 27 - 3 - 1 - 3)
    assert_equal(*ends)


@pytest.mark.parametrize(
    ("row", "optimizer"),
    [
        *product(["kd", "kd+dot"], ["nesterov", "adamw"]),
        *product(["kd"], ["nadam", "rmsprop", "rmsprop_tf", "lion"]),
    ],
)
def test_they_are_with_other_optimizers_too(row: str, optimizer: str) -> None:
    ends = []
    for take in (plain, captured):
        (spec,) = specs_of([row])
        update = type(spec.update)(optimizer=optimizer, lr=0.01, clip_norm=1.0)
        trainer = trainer_of([StudentSpec(spec.model, method=spec.method, update=update, name=row)])
        take(trainer)
        trainer.fit(data(), epochs=2)
        ends.append(trainer)
    assert ends[1]._captured.num_replays > 8
    assert_equal(*ends)


def test_a_weight_that_rises_by_epochs_has_the_step_recorded_anew() -> None:
    ends = []
    for take in (plain, captured):
        trainer = trainer_of([StudentSpec(small_net(3), method=methods.DKD.Config(warmup_epochs=2), name="dkd")])
        take(trainer)
        trainer.fit(data(), epochs=3)
        ends.append(trainer)
    assert ends[1]._captured.num_recordings == 2
    assert_equal(*ends)


@pytest.mark.parametrize("optimizer", ["sgd", "nadam"])
def test_a_run_that_was_resumed_goes_on_bit_for_bit(optimizer: str) -> None:
    rows, constant = ["kd", "kd+dot"], Schedule(name="constant")
    whole, first, second = (
        trainer_of(
            [
                replace(spec, update=spec.update.model_copy(update={"optimizer": optimizer}))
                for spec in specs_of(rows, schedule=constant)
            ]
        )
        for _ in range(3)
    )
    for trainer in (whole, first, second):
        captured(trainer)
    whole.fit(data(), epochs=3)
    first.fit(data(), epochs=2)
    second.fit(data(), epochs=1)  # has recorded steps on tensors that the state replaces
    second.load_state_dict(first.state_dict())
    second.fit(data(), epochs=3)
    for ours, theirs in zip(whole.students, second.students, strict=True):
        for name, value in tensors_of(ours).items():
            assert torch.equal(tensors_of(theirs)[name], value), name


class DroppingNet(SmallNet):
    """Dropout, and a drop path in front of it, as transformers have both."""

    def __init__(self) -> None:
        super().__init__(dropout=0.5)
        self.drop_path = DropPath(0.5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.act(self.norm(self.conv(images)))
        return self.fc(self.dropout(self.drop_path(hidden).mean((2, 3))))


def drawing_specs() -> list[StudentSpec]:
    """Two rows that draw in their networks, and one that draws negatives."""
    with seeded(5):
        networks = [DroppingNet() for _ in range(3)]
    crd = methods.CRD.Config(embedding_dim=4, num_negatives=6)
    kinds = [("kd", methods.KD.Config(), "joint"), ("kd+dot", methods.KD.Config(), "dot"), ("crd", crd, "joint")]
    return [
        StudentSpec(network, method=method, update=spec_of("kd+dot" if update == "dot" else "kd").update, name=name)
        for network, (name, method, update) in zip(networks, kinds, strict=True)
    ]


def numbered(steps: int = 9) -> list[Batch]:
    """The batches with the numbers of their samples."""
    return [
        replace(batch, indices=torch.arange(len(batch.images)) + 8 * place)
        for place, batch in enumerate(batches(steps, last=5))
    ]


def test_replays_draw_what_steps_draw() -> None:
    ends = []
    for take in (plain, captured):
        trainer = trainer_of(drawing_specs())
        steps = take(trainer)
        trainer.fit(numbered(), epochs=2)
        ends.append(trainer)
    assert steps.problem is None
    assert (steps.num_recordings, steps.num_replays) == (1, 18 - 3 - 1 - 2)
    assert_equal(*ends)
    for ours, theirs in zip(ends[0].students, ends[1].students, strict=True):  # and both draw on from the same place
        for one, other in (
            (ours.random_state, theirs.random_state),
            (ours.shared_random_state, theirs.shared_random_state),
        ):
            assert torch.equal(one.state_dict()["cpu"], other.state_dict()["cpu"])


def test_a_resumed_run_draws_on_where_it_stopped() -> None:
    whole, first, second = (trainer_of(drawing_specs(), stops_at_nan=True) for _ in range(3))
    for trainer in (whole, first, second):
        captured(trainer)
    for trainer, epochs in ((whole, 3), (first, 2), (second, 1)):
        for student in trainer.students:
            student.schedule = Schedule(name="constant")
        trainer.fit(numbered(), epochs=epochs)
    second.load_state_dict(first.state_dict())
    second.fit(numbered(), epochs=3)
    assert second._captured.num_recordings == 2
    for ours, theirs in zip(whole.students, second.students, strict=True):
        for name, value in tensors_of(ours).items():
            assert torch.equal(tensors_of(theirs)[name], value), f"{ours.name}: {name}"


def test_a_row_that_draws_is_the_row_alone() -> None:
    together, alone = trainer_of(drawing_specs()), trainer_of(drawing_specs()[2:])
    for trainer in (together, alone):
        captured(trainer)
        trainer.fit(numbered(), epochs=1)
    ours, theirs = tensors_of(together.students[2]), tensors_of(alone.students[0])
    assert [name for name, value in ours.items() if not torch.equal(theirs[name], value)] == []


class PythonsNet(SmallNet):
    """Takes its own path at random, decided by Python."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (1.0 if random.random() < 0.5 else 0.5)


def test_a_step_that_draws_elsewhere_is_taken_as_it_comes_and_says_so() -> None:
    said: list[str] = []
    trainer = trainer_of([StudentSpec(PythonsNet(), method=methods.KD.Config(), name="kd")])
    steps = captured(trainer, must=False, say=said.append)
    trainer.fit(data(), epochs=1)
    assert steps.num_recordings == 0
    assert said == [
        "steps are not captured as a CUDA graph: the step draws random numbers elsewhere than on the GPU (by random, "
        "NumPy or a CPU tensor)"
    ]


def test_a_draw_from_a_state_that_the_graph_does_not_know_is_refused_as_cuda_does() -> None:
    own, other = RandomState(1), RandomState(2)

    def step() -> Tensor:
        with own.swapped_in():
            return torch.rand(3)

    with pytest.raises(RuntimeError, match="not told of"):
        recorded_ops(step, [other])
    drawn, replay = recorded_ops(step, [own, other])
    first = drawn.clone()
    replay()
    with RandomState(1).swapped_in():
        assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.rand(3), drawn)


def test_memory_that_runs_out_in_a_recording_is_said_with_the_batch() -> None:
    """torch raises an error of its own where it ends a recording that has failed, and hides the first."""

    def runs_out(step: object, drawn_from: object) -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError as error:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture") from error

    said: list[str] = []
    trainer = trainer_of(specs_of(["kd"]))
    trainer.students[0].update.prepare_capture(CPU)
    trainer._captured = CapturedSteps(trainer, record=runs_out, must=False, say=said.append)
    trainer.fit(data(), epochs=1)
    assert said == ["steps are not captured as a CUDA graph: memory ran out with batches of 8"]
    assert trainer.students[0].num_steps == 9


class ReadingNet(SmallNet):
    """Reads a number from the device on its way."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (1.0 if float(images.mean()) < 2 else 0.5)


def test_a_step_that_cannot_be_recorded_is_taken_as_it_comes_and_leaves_no_trace() -> None:
    said: list[str] = []
    ends = []
    for take in (plain, lambda t: captured(t, must=False, say=said.append)):
        specs = specs_of(["kd+dot"])
        reading = ReadingNet()
        reading.load_state_dict(small_net(3).state_dict())
        trainer = trainer_of([*specs, StudentSpec(reading, method=methods.KD.Config(), name="reading")])
        take(trainer)
        trainer.fit(data(), epochs=2)
        ends.append(trainer)
    assert len(said) == 1
    assert "not permitted when stream is capturing" in said[0]
    # Here, unlike on a GPU, what came before the obstacle has been done; so only the counts are compared.
    steps = [trainer.students[0].update.param_groups[0]["steps"] for trainer in ends]
    assert steps[0] == steps[1]


def test_what_must_be_captured_and_cannot_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="capture: true cannot be: the device is cpu, and only CUDA has graphs"):
        trainer_of(specs_of(["kd"]), capture=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "float16"}, None),
        (
            {"precision": "float16", "update": Joint.Config(optimizer="nadam")},
            "kd trains in float16, whose scaler may skip a step: Python counts the steps of NAdam",
        ),
        ({"compile": "reduce-overhead"}, "kd is compiled into CUDA graphs of its own; set compile: true or false"),
        ({"update": Joint.Config(optimizer="nadam")}, None),
        ({"precision": "bfloat16"}, None),
        ({"accumulate": 2}, None),
    ],
)
def test_what_stands_against_it_is_said_with_the_setting_to_change(options: dict[str, Any], said: str | None) -> None:
    trainer = trainer_of([StudentSpec(small_net(3), method=methods.KD.Config(), name="kd", **options)])
    problem = step_problem(trainer)
    assert (problem is None) == (said is None)
    assert said is None or said in str(problem)


def test_replayed_steps_in_bfloat16_are_the_steps_themselves() -> None:
    ends = []
    for take in (plain, captured):
        trainer = trainer_of(specs_of(["kd", "kd+dot"], precision="bfloat16"))
        take(trainer)
        trainer.fit(data(), epochs=2)
        ends.append(trainer)
    assert ends[1]._captured.num_replays > 8
    assert_equal(*ends)


def test_a_machine_without_cuda_takes_steps_as_they_come() -> None:
    assert isinstance(trainer_of(specs_of(["kd"]))._captured, PlainSteps)
