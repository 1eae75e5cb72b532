"""Compiled networks whose outputs do not outlive a step, as those of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine_helpers import CPU, plain_batches, small_teacher, spec_of, student_of, tensors_of, tiny_recipe
from understudy import LiveTeacher, Trainer, UserError
from understudy.compiling import Compile


class Overwriting:
    """In place of torch.compile: everything that a network returned is no number any more from the next step on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.returned: list[Tensor] = []
        self.steps = 0
        monkeypatch.setattr(torch, "compile", self.compile)
        monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", self.begin_step)

    def compile(self, model: nn.Module, *, mode: str | None, dynamic: bool) -> Callable[..., Any]:
        assert mode == "reduce-overhead"
        assert dynamic is False

        def run(images: Tensor) -> Any:
            output, features = model(images)
            self.returned += [output, *features.values()]
            return output, features

        return run

    def begin_step(self) -> None:
        self.steps += 1
        for tensor in self.returned:
            tensor.data.fill_(torch.nan)
        self.returned.clear()


def trained(row: str, how: Compile, **options: Any) -> Trainer:
    teacher = small_teacher()
    teacher.compiles = how
    spec = spec_of(row, dropout=0.0)
    students = [student_of(spec, teacher)]
    students[0].compiles = how
    for name, value in options.items():
        setattr(students[0], name, value)
    trainer = Trainer(students, teacher=teacher, device=CPU, log_every=2)
    trainer.fit(plain_batches(), epochs=3, val=plain_batches())
    return trainer


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}])
@pytest.mark.parametrize("row", ["alone", "kd", "kd+dot", "dist", "projector"])
def test_nothing_of_a_step_is_read_after_the_next_one_has_begun(
    row: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = trained(row, False, **options)
    overwriting = Overwriting(monkeypatch)
    graphs = trained(row, "reduce-overhead", **options)
    assert overwriting.steps == 9
    for name, value in tensors_of(eager.students[0]).items():
        assert torch.equal(tensors_of(graphs.students[0])[name], value), name
    assert graphs.history == eager.history


def test_no_step_is_marked_where_nothing_runs_as_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    overwriting = Overwriting(monkeypatch)
    trained("kd", False)
    assert overwriting.steps == 0


def test_a_teacher_that_runs_as_a_graph_marks_the_steps_of_eager_students(monkeypatch: pytest.MonkeyPatch) -> None:
    overwriting = Overwriting(monkeypatch)
    teacher = LiveTeacher(small_teacher().model.untapped(), compiles="reduce-overhead")
    trainer = Trainer([student_of(spec_of("kd"), teacher)], teacher=teacher, device=CPU)
    trainer.fit(plain_batches(), epochs=1)
    assert overwriting.steps == 3


def test_a_shorter_last_batch_does_not_make_the_others_run_code_for_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[Any] = []

    def noting(graph: Any, inputs: list[Any]) -> Any:
        def run(*arguments: Any) -> Any:
            sizes.append("any" if any(isinstance(given, int | torch.SymInt) for given in arguments) else "one")
            return graph.forward(*arguments)

        return run

    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda model, **settings: real(model, backend=noting, dynamic=settings["dynamic"])
    )
    torch._dynamo.reset()
    trained("alone", True)  # three epochs of batches of 8, 8 and 5; the first step of all is eager
    assert sizes == ["one"] * (9 + 8)  # of the teacher, and of the student


def test_the_recipe_knows_three_ways() -> None:
    assert [tiny_recipe({"compile": how}).compile for how in (False, True, "reduce-overhead")] == [
        False,
        True,
        "reduce-overhead",
    ]
    with pytest.raises(UserError, match=r"compile .*reduce-overhead"):
        tiny_recipe({"compile": "fast"})
