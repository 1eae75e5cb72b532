"""What a seed and a run come to, as the types of results.json."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from helpers.engine import CLASSES, CPU, batches, plain_batches, small_teacher, spec_of, student_of, tiny_recipe
from understudy import Trainer
from understudy.models.cost import model_facts
from understudy.recipes.comparison import rows_of
from understudy.report import Results
from understudy.results.reading import results_from
from understudy.results.schema import SCHEMA, ModelFacts, Scores, SeedResult, TrainScores
from understudy.results.seed_record import seed_record_from
from understudy.runs.collect import assemble, scored_teacher, seed_result
from understudy.runs.components import open_components
from understudy.tasks import ClassEvaluation, Evaluation
from understudy.utils.errors import UserError
from understudy.utils.text import json_text

SCHEMA_1 = Path(__file__).parents[1] / "report" / "schema1"  # as the last version with that schema wrote them


def evaluation(*predictions: int, loss: float = 1.0, num_classes: int = CLASSES) -> ClassEvaluation:
    """Of images that all belong to class 0."""
    said = torch.tensor(predictions)
    top1 = 100 * (said == 0).double().mean().item()
    top5 = 100.0 if num_classes > 5 else None
    return ClassEvaluation.of(said, torch.zeros_like(said), top1=top1, top5=top5, loss=loss)


def trainer_with_history(*val_top1: float, last: Evaluation) -> Trainer:
    trainer = Trainer([student_of(spec_of("alone"))], teacher=None, device=CPU)
    trainer.history["alone"] = [
        {"epoch": epoch, "train": {"task_loss": 0.5 + epoch, "top1": 40.0}, "val": {"top1": top1, "loss": 1.0}}
        for epoch, top1 in enumerate(val_top1, start=1)
    ]
    trainer.evaluations["alone"] = last
    return trainer


def at_the_end(trainer: Trainer) -> dict[str, Evaluation]:
    """The validation scores of the only student."""
    return {"val": next(iter(trainer.evaluations.values()))}


SCORES = {"top5": 100.0, "balanced_accuracy": 50.0, "loss": 1.0}  # all images are of one class


class TestSeedResult:
    def test_last_and_best_epoch_are_kept_apart(self) -> None:
        trainer = trainer_with_history(25.0, 75.0, 50.0, last=evaluation(0, 0, 1, 1))
        found = seed_result(trainer, "alone", seed=4, found=at_the_end(trainer), teacher={})
        assert found.seed == 4
        assert found.last == found.selected == Scores(epoch=3, scores={"top1": 50.0, **SCORES}, agreement=None)
        assert found.best == Scores(epoch=2, scores={"top1": 75.0})

    def test_of_two_equal_epochs_the_first_is_the_best(self) -> None:
        trainer = trainer_with_history(75.0, 75.0, 50.0, last=evaluation(0, 0, 1, 1))
        assert seed_result(trainer, "alone", seed=0, found=at_the_end(trainer), teacher={}).best.epoch == 1

    def test_the_yardstick_is_the_last_epochs_and_none_without_a_teacher(self) -> None:
        trainer = trainer_with_history(25.0, 50.0, last=evaluation(0, 1))
        found = seed_result(trainer, "alone", seed=0, found=at_the_end(trainer), teacher={})
        assert found.train == TrainScores(kl_to_teacher=None, task_loss=2.5, scores={"top1": 40.0})

    def test_agreement_is_with_the_teacher_on_the_same_split(self) -> None:
        trainer = trainer_with_history(50.0, last=evaluation(0, 0, 1, 1))
        teacher = {"val": evaluation(0, 0, 1, 2), "test": evaluation(5, 0, 0, 0)}
        found = {**at_the_end(trainer), "test": evaluation(0, 0, 3, 4)}
        result = seed_result(trainer, "alone", seed=0, found=found, teacher=teacher)
        assert result.last.agreement == 75.0
        assert result.test == Scores(scores={"top1": 50.0, **SCORES}, agreement=25.0)

    def test_without_a_test_split_its_scores_are_none(self) -> None:
        trainer = trainer_with_history(50.0, last=evaluation(0, 1))
        assert seed_result(trainer, "alone", seed=0, found=at_the_end(trainer), teacher={}).test is None

    def test_top5_is_left_out_up_to_five_classes(self) -> None:
        trainer = trainer_with_history(50.0, last=evaluation(0, 1, num_classes=5))
        assert "top5" not in seed_result(trainer, "alone", seed=0, found=at_the_end(trainer), teacher={}).last.scores

    def test_the_yardstick_of_a_trained_row_is_the_mean_over_the_last_epochs_images(self) -> None:
        teacher = small_teacher()
        trainer = Trainer([student_of(spec_of("kd"), teacher)], teacher=teacher, device=CPU)
        trainer.fit(plain_batches(), epochs=1, val=batches())
        found = seed_result(trainer, "kd", seed=0, found=at_the_end(trainer), teacher={})
        assert found.train is not None
        assert found.train.kl_to_teacher == trainer.history["kd"][0]["train"]["kl_to_teacher"]


@pytest.fixture(scope="module")
def assembled() -> Results:
    return assembled_beside_alone("kd+dot")


def assembled_beside_alone(row: str) -> Results:
    """Two rows of two seeds on four images of class 0, as a finished run would have left them."""
    recipe = tiny_recipe({"rows": ["alone", row]})
    parts = open_components(recipe, allow_code=False, say=lambda text: None)
    found = {
        "alone": [evaluation(0, 0, 1, 1), evaluation(0, 1, 1, 1)],
        row: [evaluation(0, 0, 0, 1), evaluation(0, 0, 0, 0)],
    }
    seeds: dict[str, list[SeedResult]] = {name: [] for name in found}
    predictions = {"val/labels": torch.zeros(4, dtype=torch.long)}
    for name, evaluations in found.items():
        for seed, last in enumerate(evaluations):
            trainer = trainer_with_history(last.top1, last=last)
            seeds[name].append(seed_result(trainer, "alone", seed=seed, found=at_the_end(trainer), teacher={}))
            predictions |= last.kept_as("val", f"{name}/{seed}")
    facts = ModelFacts(**model_facts(parts.student_network, parts.image_size))
    return assemble(
        parts,
        rows_of(recipe),
        name="four images",
        seeds=seeds,
        students=dict.fromkeys(found, facts),
        teacher=scored_teacher(model_facts(parts.teacher_network, parts.image_size), {"val": evaluation(0, 0, 0, 0)}),
        predictions=predictions,
    )


class TestAssembled:
    def test_a_row_that_deploys_more_than_the_student_has_no_yardstick(self) -> None:
        alone, simkd = assembled_beside_alone("simkd").rows
        assert alone.summary.task_loss is not None
        assert alone.summary.task_loss.mean == 1.5
        assert simkd.summary.task_loss is None
        assert simkd.summary.kl_to_teacher is None
        assert simkd.summary.scores["top1"].mean == 87.5

    def test_what_is_written_reads_back_the_same(self, assembled: Results) -> None:
        through_a_file = json.loads(json_text(assembled.as_dict()))
        assert through_a_file["schema"] == SCHEMA == 2
        assert results_from(through_a_file, what="results") == assembled
        assert [row.name for row in assembled.rows] == ["alone", "kd+dot"]

    def test_the_metrics_are_those_of_the_task_and_stand_beside_the_scores(self, assembled: Results) -> None:
        assert [metric.name for metric in assembled.metrics] == ["top1", "top5", "balanced_accuracy", "loss"]
        assert [metric.name for metric in assembled.metrics if not metric.higher_is_better] == ["loss"]
        assert assembled.headline_metric == "top1"

    def test_every_row_has_mean_and_standard_deviation_over_its_seeds(self, assembled: Results) -> None:
        top1 = [row.summary.scores["top1"] for row in assembled.rows]
        assert asdict(top1[0]) == pytest.approx({"mean": 37.5, "std": 17.6776695, "n": 2})
        assert asdict(top1[1]) == pytest.approx({"mean": 87.5, "std": 17.6776695, "n": 2})

    def test_every_row_is_compared_with_the_student_alone(self, assembled: Results) -> None:
        (found,) = assembled.comparisons
        assert (found.row, found.against, found.split) == ("kd+dot", "alone", "val")
        assert found.difference == pytest.approx(50.0)
        assert (found.num_images, found.num_seeds) == (4, 2)

    def test_what_was_not_measured_is_none_or_empty(self, assembled: Results) -> None:
        assert assembled.rows[0].summary.test == {}
        assert assembled.teacher is not None
        assert assembled.teacher.test is None
        assert assembled.published == ()

    def test_rows_say_with_which_weights_and_update_they_were_trained(self, assembled: Results) -> None:
        alone, distilled = assembled.rows
        assert (alone.methods, alone.task_weight, alone.update["name"]) == ((), 1.0, "joint")
        assert (distilled.task_weight, distilled.update["name"]) == (0.1, "dot")
        assert {"name": "kd", "weight": 0.9, "warmup_epochs": 0, "temperature": 4.0}.items() <= (
            distilled.methods[0].items()
        )

    def test_sizes_are_those_of_the_networks(self, assembled: Results) -> None:
        parts = open_components(tiny_recipe(), allow_code=False, say=lambda text: None)
        for facts, network in (
            (assembled.rows[0].student, parts.student_network),
            (assembled.teacher, parts.teacher_network),
        ):
            assert facts.parameters == sum(parameter.numel() for parameter in network.module.parameters())
            assert facts.macs > facts.parameters  # every weight of a convolution is used at many places
            assert facts.image_size == 8


class TestSeedRecord:
    def test_a_seed_that_an_older_version_finished_is_read(self) -> None:
        record = seed_record_from(json.loads((SCHEMA_1 / "seed0.json").read_text()), what="seed0.json")
        assert set(record.rows) == {"alone", "kd+dot", "simkd"}
        seed = record.rows["kd+dot"].record
        assert (seed.selected.scores["top1"], seed.selected.epoch, seed.train.scores) == (9.0, 2, {"top1": 10.0})
        assert record.rows["alone"].student.parameters == 5214
        assert record.lengths == (3,)

    def test_what_is_written_of_a_diverged_seed_reads_back(self) -> None:
        record = seed_record_from(json.loads((SCHEMA_1 / "seed0.json").read_text()), what="seed0.json")
        data = record.as_dict()
        data["rows"]["alone"]["record"]["train"]["task_loss"] = math.nan
        again = seed_record_from(json.loads(json_text(data)), what="seed0.json")
        assert math.isnan(again.rows["alone"].record.train.task_loss)
        assert again.rows["simkd"] == record.rows["simkd"]

    def test_a_record_of_a_later_version_is_refused_in_words(self) -> None:
        with pytest.raises(UserError, match=r"seed0\.json: has schema 3; go on with the version that began the run"):
            seed_record_from({"schema": 3, "rows": {}}, what="seed0.json")
