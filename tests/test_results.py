"""What a seed and a run come to, as plain values."""

import json
from typing import Any

import pytest
import torch

from engine_helpers import CLASSES, CPU, batches, plain_batches, small_teacher, spec_of, student_of, tiny_recipe
from understudy import Trainer
from understudy.models.cost import model_facts
from understudy.recipes.comparison import rows_of
from understudy.report import Results
from understudy.runs.collect import SCHEMA, assemble, seed_record
from understudy.runs.components import open_parts
from understudy.tasks import ClassEvaluation, Evaluation


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


LOSS = {"loss": 1.0, "balanced_accuracy": 50.0}  # all images are of one class


class TestSeedRecord:
    def test_last_and_best_epoch_are_kept_apart(self) -> None:
        trainer = trainer_with_history(25.0, 75.0, 50.0, last=evaluation(0, 0, 1, 1))
        record = seed_record(trainer, "alone", seed=4, found=at_the_end(trainer), teacher={})
        assert record["seed"] == 4
        assert record["last"] == {"epoch": 3, "top1": 50.0, "top5": 100.0, **LOSS, "agreement": None}
        assert record["best"] == {"epoch": 2, "top1": 75.0}

    def test_of_two_equal_epochs_the_first_is_the_best(self) -> None:
        trainer = trainer_with_history(75.0, 75.0, 50.0, last=evaluation(0, 0, 1, 1))
        assert seed_record(trainer, "alone", seed=0, found=at_the_end(trainer), teacher={})["best"]["epoch"] == 1

    def test_the_yardstick_is_the_last_epochs_and_null_without_a_teacher(self) -> None:
        trainer = trainer_with_history(25.0, 50.0, last=evaluation(0, 1))
        found = seed_record(trainer, "alone", seed=0, found=at_the_end(trainer), teacher={})["train"]
        assert found == {"kl_to_teacher": None, "task_loss": 2.5, "top1": 40.0}

    def test_agreement_is_with_the_teacher_on_the_same_split(self) -> None:
        trainer = trainer_with_history(50.0, last=evaluation(0, 0, 1, 1))
        teacher = {"val": evaluation(0, 0, 1, 2), "test": evaluation(5, 0, 0, 0)}
        record = seed_record(
            trainer, "alone", seed=0, found={**at_the_end(trainer), "test": evaluation(0, 0, 3, 4)}, teacher=teacher
        )
        assert record["last"]["agreement"] == 75.0
        assert record["test"] == {"top1": 50.0, "top5": 100.0, **LOSS, "agreement": 25.0}

    def test_without_a_test_split_its_scores_are_null(self) -> None:
        trainer = trainer_with_history(50.0, last=evaluation(0, 1))
        assert seed_record(trainer, "alone", seed=0, found=at_the_end(trainer), teacher={})["test"] is None

    def test_top5_is_left_out_up_to_five_classes(self) -> None:
        trainer = trainer_with_history(50.0, last=evaluation(0, 1, num_classes=5))
        assert "top5" not in seed_record(trainer, "alone", seed=0, found=at_the_end(trainer), teacher={})["last"]

    def test_the_yardstick_of_a_trained_row_is_the_mean_over_the_last_epochs_images(self) -> None:
        teacher = small_teacher()
        trainer = Trainer([student_of(spec_of("kd"), teacher)], teacher=teacher, device=CPU)
        trainer.fit(plain_batches(), epochs=1, val=batches())
        record = seed_record(trainer, "kd", seed=0, found=at_the_end(trainer), teacher={})
        assert record["train"]["kl_to_teacher"] == trainer.history["kd"][0]["train"]["kl_to_teacher"]


@pytest.fixture(scope="module")
def assembled() -> dict[str, Any]:
    return assembled_beside_alone("kd+dot")


def assembled_beside_alone(row: str) -> dict[str, Any]:
    """Two rows of two seeds on four images of class 0, as a finished run would have left them."""
    recipe = tiny_recipe({"rows": ["alone", row]})
    parts = open_parts(recipe, allow_code=False, say=lambda text: None)
    found = {
        "alone": [evaluation(0, 0, 1, 1), evaluation(0, 1, 1, 1)],
        row: [evaluation(0, 0, 0, 1), evaluation(0, 0, 0, 0)],
    }
    records: dict[str, list[Any]] = {name: [] for name in found}
    predictions = {"val/labels": torch.zeros(4, dtype=torch.long)}
    for name, evaluations in found.items():
        for seed, last in enumerate(evaluations):
            trainer = trainer_with_history(last.top1, last=last)
            records[name].append(seed_record(trainer, "alone", seed=seed, found=at_the_end(trainer), teacher={}))
            predictions[f"val/{name}/{seed}"] = last.predictions
    facts = model_facts(parts.student_network, parts.image_size)
    return assemble(
        parts,
        rows_of(recipe),
        name="four images",
        seed_records=records,
        students=dict.fromkeys(found, facts),
        teacher={"val": evaluation(0, 0, 0, 0)},
        predictions=predictions,
    )


class TestAssembled:
    def test_a_row_that_deploys_more_than_the_student_has_no_yardstick(self) -> None:
        alone, simkd = assembled_beside_alone("simkd")["rows"]
        assert alone["summary"]["task_loss"]["mean"] == 1.5
        assert simkd["summary"]["task_loss"] is None
        assert simkd["summary"]["kl_to_teacher"] is None
        assert simkd["summary"]["top1"]["mean"] == 87.5

    def test_it_is_plain_json_that_follows_the_schema(self, assembled: dict[str, Any]) -> None:
        through_a_file = json.loads(json.dumps(assembled, allow_nan=False))
        results = Results.read(through_a_file, what="results")
        assert results.schema_number == SCHEMA
        assert [row.name for row in results.rows] == ["alone", "kd+dot"]

    def test_every_row_has_mean_and_standard_deviation_over_its_seeds(self, assembled: dict[str, Any]) -> None:
        top1 = [row["summary"]["top1"] for row in assembled["rows"]]
        assert top1[0] == pytest.approx({"mean": 37.5, "std": 17.6776695, "n": 2})
        assert top1[1] == pytest.approx({"mean": 87.5, "std": 17.6776695, "n": 2})

    def test_every_row_is_compared_with_the_student_alone(self, assembled: dict[str, Any]) -> None:
        (found,) = assembled["comparisons"]
        assert (found["row"], found["against"], found["split"]) == ("kd+dot", "alone", "val")
        assert found["difference"] == pytest.approx(50.0)
        assert (found["num_images"], found["num_seeds"]) == (4, 2)

    def test_what_was_not_measured_is_null(self, assembled: dict[str, Any]) -> None:
        assert assembled["rows"][0]["summary"]["test_top1"] is None
        assert assembled["teacher"]["test"] is None
        assert assembled["published"] == []

    def test_rows_say_with_which_weights_and_update_they_were_trained(self, assembled: dict[str, Any]) -> None:
        alone, distilled = assembled["rows"]
        assert (alone["methods"], alone["task_weight"], alone["update"]["name"]) == ([], 1.0, "joint")
        assert (distilled["task_weight"], distilled["update"]["name"]) == (0.1, "dot")
        assert {"name": "kd", "weight": 0.9, "warmup_epochs": 0, "temperature": 4.0}.items() <= (
            distilled["methods"][0].items()
        )

    def test_sizes_are_those_of_the_networks(self, assembled: dict[str, Any]) -> None:
        parts = open_parts(tiny_recipe(), allow_code=False, say=lambda text: None)
        for facts, network in (
            (assembled["rows"][0]["student"], parts.student_network),
            (assembled["teacher"], parts.teacher_network),
        ):
            assert facts["parameters"] == sum(parameter.numel() for parameter in network.module.parameters())
            assert facts["macs"] > facts["parameters"]  # every weight of a convolution is used at many places
            assert facts["image_size"] == 8
