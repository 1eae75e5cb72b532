"""Networks that give several outputs, and methods that say which of them they compare."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.engine import CPU
from understudy import LiveTeacher, StudentSpec, UserError, methods
from understudy.core.batch import MAIN, Batch, Observation, Pairing
from understudy.core.taps import TappedModel
from understudy.methods.dist import dist_loss
from understudy.recipes.schema import method_config
from understudy.tasks import Classification
from understudy.training.build import BuildContext, build_student
from understudy.training.student import Student


class TwoHeads(nn.Module):
    """A map, and two classifiers of its mean."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head, self.second = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pooled = self.body(images).relu().mean(dim=(2, 3))
        return {"logits": self.head(pooled), "second": self.second(pooled)}


class TwoHeaded(Classification):
    """Rows of both heads, each beside the teacher's logits."""

    def pair(self, student: TappedModel, observation: Observation, batch: Batch) -> tuple[Tensor, dict[str, Pairing]]:
        loss, pairings = super().pair(student, observation, batch)
        output, features = student(batch.images)
        teacher = observation.output["logits"] if observation.output else None
        second = Pairing(output["second"], teacher, batch.targets, features, observation.features)
        return loss, {**pairings, "second": second}


BATCH = Batch(torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5)


def student_with(*configs: methods.MethodConfig) -> tuple[Student, Observation]:
    teacher = LiveTeacher(TwoHeads(1))
    teacher.tap(tap for config in configs for tap in config.method.taps_for(config).teacher)
    around = BuildContext(task=TwoHeaded(5), num_classes=5, sample=BATCH.images, teacher=teacher)
    student = build_student(StudentSpec(TwoHeads(2), method=configs), around)
    return student, teacher.observe(BATCH)


def test_outputs_are_tapped_by_their_names() -> None:
    network = TwoHeads(0)
    output, features = TappedModel(network, ["output.second", "body"])(BATCH.images)
    assert torch.equal(features["output.second"], output["second"])
    assert features["body"].shape == (6, 4, 6, 6)
    assert torch.equal(TappedModel(network.body, ["output.logits"])(BATCH.images)[1]["output.logits"],
                       network.body(BATCH.images))  # fmt: skip


def test_an_output_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"nothing was tapped at 'output\.aux': the model gives logits, second"):
        TappedModel(TwoHeads(0), ["output.aux"])(BATCH.images)


def test_an_observation_of_several_outputs_is_divided_with_its_batch() -> None:
    output = TwoHeads(0)(BATCH.images)
    part = Observation(output).select(slice(2, 5)).output
    assert {name: torch.equal(part[name], output[name][2:5]) for name in output} == {"logits": True, "second": True}


def test_a_method_compares_the_rows_that_it_names_each_with_its_weight() -> None:
    student, seen = student_with(methods.DIST.Config(on={"main": 1.0, "second": 0.4}, weight=1.0))
    _, pairings = student.task.pair(student.model, seen, BATCH)
    of = {name: dist_loss(pairings[name].student_logits, seen.output["logits"]).item() for name in (MAIN, "second")}
    record = student.step(BATCH, seen, epoch=1)
    assert record.mean("distill").item() == pytest.approx(of[MAIN] + 0.4 * of["second"], rel=1e-6)
    assert [name for name in record.sums if "dist" in name] == [
        "dist.inter", "dist.intra", "dist.second.inter", "dist.second.intra", "distill"
    ]  # fmt: skip


def test_a_method_that_names_nothing_compares_what_it_always_did() -> None:
    default, seen = student_with(
        methods.KD.Config(), methods.FitNet.Config(student_stages=("body",), teacher_stages=("body",))
    )
    named, _ = student_with(
        methods.KD.Config(on="main"),
        methods.FitNet.Config(student_stages=("body",), teacher_stages=("body",), on="images"),
    )
    records = [student.step(BATCH, seen, epoch=1) for student in (default, named)]
    assert records[0].mean("distill") == records[1].mean("distill")


def test_rows_that_the_task_does_not_have_are_refused_with_those_that_it_has() -> None:
    student, seen = student_with(methods.KD.Config(on="aux"))
    with pytest.raises(UserError, match=r"method\.on: .* no 'aux'; there are main, images, second"):
        student.step(BATCH, seen, epoch=1)


@pytest.mark.parametrize(
    "written", ["{name: kd, on: second}", "{name: kd, on: [second]}", "{name: kd, on: {second: 1}}"]
)
def test_rows_are_named_in_a_recipe_whatever_yaml_takes_on_for(written: str) -> None:
    from understudy.utils.untrusted import plain_yaml

    assert method_config(plain_yaml(written, what="it")).on == {"second": 1.0}


@pytest.mark.parametrize("on", [{}, {"main": -1}])
def test_no_rows_and_negative_weights_are_refused(on: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="names rows of the task with weights of at least 0"):
        methods.KD.Config(on=on)


def test_two_heads_are_scored_by_their_logits() -> None:
    network = TwoHeads(0)
    task = Classification(5)
    (of_both,) = task.evaluate({"both": lambda batch: network(batch.images)}, [BATCH], CPU).values()
    (of_one,) = task.evaluate({"one": lambda batch: network(batch.images)["logits"]}, [BATCH], CPU).values()
    assert of_both.scores == of_one.scores
