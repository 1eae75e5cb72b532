"""A whole run: every file of its folder, the same on every repetition."""

import json
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from helpers.engine import DROPOUT_STUDENT, reproducible_files, run_recipe, tiny_recipe
from helpers.states import differing
from understudy import Recipe, UserError, load_student
from understudy.data import EvalLoader, open_data
from understudy.report import read_results
from understudy.runs.components import Components, open_components
from understudy.runs.folder import RunFolder

COMPARE = {"teacher": {"train_epochs": 1}, "log_every": 2}
ROWS = ("alone", "kd+dot")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return tiny_recipe(COMPARE)


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_recipe(recipe, tmp_path_factory.mktemp("first") / "run")


def metrics(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in run.metrics_file.read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def val_images(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    val = open_data(recipe.data).val
    return val.images / 255, val.labels


class TestFolder:
    def test_it_holds_every_file_and_nothing_half_written(self, run: RunFolder) -> None:
        found = {str(file.relative_to(run.path)) for file in run.path.rglob("*") if file.is_file()}
        students = {f"students/{row}/seed{seed}" for row in ROWS for seed in (0, 1)} | {"student", "teacher"}
        expected = {f"{folder}/{file}" for folder in students for file in ("config.json", "model.safetensors")}
        expected |= {"recipe.yaml", "metrics.jsonl", "results.json", "environment.json", "timing.jsonl"}
        expected |= {"predictions.safetensors", "report.html"}
        assert expected <= found
        expected_ends = {f"checkpoints/seed{seed}-end.pt" for seed in (0, 1)}
        assert {name for name in found if "partial" in name or name.endswith(".pt")} == expected_ends
        assert run.is_finished

    def test_the_recipe_in_it_is_the_resolved_one(self, run: RunFolder, recipe: Recipe) -> None:
        assert run.recipe() == recipe.as_dict()
        assert Recipe.read(run.recipe(), what="the recipe of the run") == recipe

    def test_the_page_is_one_file_that_shows_every_row(self, run: RunFolder) -> None:
        page = run.report_file.read_text()
        assert page.lower().startswith("<!doctype html>")
        assert all(row in page for row in ROWS)
        assert 'src="http' not in page

    def test_what_differs_between_machines_is_kept_apart(self, run: RunFolder) -> None:
        environment = json.loads(run.environment_file.read_text())
        assert {"hardware", "versions", "commit", "command"} <= set(environment)
        assert environment["versions"]["torch"] == version("torch")
        timing = [json.loads(line) for line in run.timing_file.read_text().splitlines()]
        speeds = {line["role"]: line["images_per_second"] for line in timing if line["kind"] == "speed"}
        assert set(speeds) == {"student", "teacher"}
        assert all(speed > 0 for speed in speeds.values())
        assert len({line["batch"] for line in timing if line["kind"] == "speed"}) == 1

    def test_a_second_repetition_is_the_same_byte_for_byte(
        self, run: RunFolder, recipe: Recipe, tmp_path: Path
    ) -> None:
        torch.rand(3)
        again = reproducible_files(run_recipe(recipe, tmp_path / "run"))
        assert again == reproducible_files(run)

    def test_a_finished_run_is_not_replaced_unless_that_is_asked_for(self, run: RunFolder, recipe: Recipe) -> None:
        with pytest.raises(UserError, match="holds a finished run; take another --out, or --overwrite to replace it"):
            run_recipe(recipe, run.path)
        before = reproducible_files(run)
        (run.path / "students/alone/stray").write_text("of an older run")
        assert reproducible_files(run_recipe(recipe, run.path, overwrite=True)) == before


class TestMetrics:
    def test_every_term_is_there_by_name_from_the_first_step_on(self, run: RunFolder) -> None:
        first = {(line["row"], line["seed"]): line for line in metrics(run, "train") if line["step"] == 1}
        assert set(first) == {("teacher", 0), *((row, seed) for row in ROWS for seed in (0, 1))}
        assert {"task", "task_loss", "kl_to_teacher", "top1", "lr"} <= set(first["alone", 0])
        assert first["alone", 0]["terms"] == {}
        assert list(first["kd+dot", 1]["terms"]) == ["kd"]
        assert "kl_to_teacher" not in first["teacher", 0]

    def test_weighted_losses_are_the_terms_times_their_weights(self, run: RunFolder) -> None:
        for line in metrics(run, "train"):
            if line["row"] == "kd+dot":
                assert line["task"] == pytest.approx(0.1 * line["task_loss"], rel=1e-6)
                assert line["distill"] == pytest.approx(0.9 * line["terms"]["kd"], rel=1e-6)
            else:
                assert line["task"] == pytest.approx(line["task_loss"], rel=1e-12)

    def test_intervals_cover_every_step_once(self, run: RunFolder) -> None:
        steps = [(line["step"], line["steps"]) for line in metrics(run, "train") if line["row"] == "alone"]
        assert steps == [(1, 1), (2, 1), (3, 1), (4, 1), (6, 2)] * 2  # of two seeds; 3 and 6 end an epoch

    def test_both_rows_are_measured_on_the_same_first_forward_pass(self, run: RunFolder) -> None:
        first = [line for line in metrics(run, "train") if line["step"] == 1 and line["seed"] == 0]
        rows = {line["row"]: line for line in first}
        for name in ("task_loss", "kl_to_teacher", "top1"):
            assert rows["alone"][name] == rows["kd+dot"][name]

    def test_every_epoch_has_a_line_with_validation_scores_and_agreement(self, run: RunFolder) -> None:
        lines = [line for line in metrics(run, "epoch") if line["row"] != "teacher"]
        assert [(line["seed"], line["epoch"], line["row"]) for line in lines] == [
            (seed, epoch, row) for seed in (0, 1) for epoch in (1, 2) for row in ROWS
        ]
        assert all({"top1", "top5", "loss", "agreement"} <= set(line["val"]) for line in lines)


class TestResults:
    def test_they_follow_the_schema_that_the_report_reads(self, run: RunFolder) -> None:
        results = read_results(run.path)
        assert [row.name for row in results.rows] == list(ROWS)
        assert [[seed.seed for seed in row.seeds] for row in results.rows] == [[0, 1], [0, 1]]
        assert results.data.num_train == 80
        assert results.teacher is not None
        assert results.headline is not None

    def test_last_and_best_epoch_are_those_of_the_metrics(self, run: RunFolder) -> None:
        for row in read_results(run.path).rows:
            for seed in row.seeds:
                lines = [m for m in metrics(run, "epoch") if (m["row"], m["seed"]) == (row.name, seed.seed)]
                top1 = [line["val"]["top1"] for line in lines]
                assert (seed.last.epoch, seed.last.scores["top1"]) == (2, top1[-1])
                assert seed.best.scores["top1"] == max(top1)
                assert seed.best.epoch == 1 + top1.index(max(top1))
                assert seed.train.kl_to_teacher == lines[-1]["train"]["kl_to_teacher"]

    def test_summaries_are_mean_and_standard_deviation_over_the_seeds(self, run: RunFolder) -> None:
        for row in read_results(run.path).rows:
            values = torch.tensor([seed.last.scores["top1"] for seed in row.seeds], dtype=torch.float64)
            assert row.summary.scores["top1"].mean == pytest.approx(values.mean().item())
            assert row.summary.scores["top1"].std == pytest.approx(values.std().item())

    def test_scores_and_agreement_follow_from_the_predictions(self, run: RunFolder, recipe: Recipe) -> None:
        predictions, labels = load_file(run.predictions_file), val_images(recipe)[1]
        assert torch.equal(predictions["val/labels"], labels)
        results = read_results(run.path)
        teacher = predictions["val/teacher"]
        assert results.teacher.val.scores["top1"] == pytest.approx(100 * (teacher == labels).double().mean().item())
        for row in results.rows:
            for seed in row.seeds:
                said = predictions[f"val/{row.name}/{seed.seed}"]
                assert seed.last.scores["top1"] == pytest.approx(100 * (said == labels).double().mean().item())
                assert seed.last.agreement == pytest.approx(100 * (said == teacher).double().mean().item())

    def test_the_comparison_is_the_difference_of_the_means(self, run: RunFolder) -> None:
        results = read_results(run.path)
        found = results.comparison("kd+dot", "alone")
        alone, distilled = (row.summary.scores["top1"].mean for row in results.rows)
        assert found.difference == pytest.approx(distilled - alone)
        assert found.low <= found.difference <= found.high
        assert (found.num_images, found.num_seeds) == (100, 2)

    def test_nothing_in_them_is_a_time_or_a_place(self, run: RunFolder) -> None:
        text = run.results_file.read_text()
        assert str(run.path.parent) not in text
        assert "second" not in text


class TestStudents:
    def test_the_deployed_one_is_the_best_seed_of_the_best_row(self, run: RunFolder) -> None:
        results = read_results(run.path)
        best = max(results.rows, key=lambda row: row.summary.scores["top1"].mean)
        seed = max(best.seeds, key=lambda seed: seed.last.scores["top1"])
        assert results.deployed.row == best.name
        deployed = load_file(run.student / "model.safetensors")
        assert differing(deployed, load_file(run.students / best.name / f"seed{seed.seed}" / "model.safetensors")) == []
        assert results.deployed.seed == seed.seed

    def test_load_student_reproduces_the_reported_validation_score(self, run: RunFolder, recipe: Recipe) -> None:
        images, labels = val_images(recipe)
        results = read_results(run.path)
        with torch.no_grad():
            top1 = 100 * (load_student(run.path)(images).argmax(1) == labels).double().mean().item()
        row = results.row(results.deployed.row)
        assert top1 == pytest.approx(next(s.last.scores["top1"] for s in row.seeds if s.seed == results.deployed.seed))

    def test_timm_reproduces_it_too_with_the_normalisation_in_its_config(self, run: RunFolder, recipe: Recipe) -> None:
        images, _ = val_images(recipe)
        module = timm.create_model(f"local-dir:{run.student}", pretrained=True).eval()
        mean, std = (torch.tensor(module.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        with torch.no_grad():
            said = module((images - mean) / std).argmax(1)
        results = read_results(run.path)
        predictions = load_file(run.predictions_file)
        assert torch.equal(said, predictions[f"val/{results.deployed.row}/{results.deployed.seed}"])
        assert module.pretrained_cfg["label_names"] == [str(number) for number in range(10)]

    def test_every_row_and_seed_can_be_loaded(self, run: RunFolder, recipe: Recipe) -> None:
        images, _ = val_images(recipe)
        predictions = load_file(run.predictions_file)
        for row in ROWS:
            for seed in (0, 1):
                with torch.no_grad():
                    said = load_student(run.students / row / f"seed{seed}")(images).argmax(1)
                assert torch.equal(said, predictions[f"val/{row}/{seed}"])


ALL_ROWS = ["alone", "kd", "kd+dot", "dist", "projector"]
WITH_DROPOUT = {"student": DROPOUT_STUDENT, "seeds": [3], "epochs": 1}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_recipe(tiny_recipe({**WITH_DROPOUT, "rows": ALL_ROWS}), tmp_path_factory.mktemp("compare") / "run")


class TestTrainIsCompareWithOneRow:
    @pytest.mark.parametrize("row", ALL_ROWS)
    def test_row_x_of_a_compare_equals_train_of_x_alone_bit_for_bit(
        self, row: str, compared: RunFolder, tmp_path: Path
    ) -> None:
        method, _, update = row.partition("+")
        settings = {**WITH_DROPOUT, "rows": [], "method": method, "update": {"name": update or "joint"}}
        alone = run_recipe(tiny_recipe(settings), tmp_path / "run")
        for file in ("model.safetensors", "config.json"):
            one, other = (folder.students / row / "seed3" / file for folder in (compared, alone))
            assert one.read_bytes() == other.read_bytes()
        of_row = [line for line in compared.metrics_file.read_text().splitlines() if f'"row": "{row}"' in line]
        assert alone.metrics_file.read_text().splitlines() == of_row
        ours, theirs = (read_results(folder.path).row(row) for folder in (compared, alone))
        own = {"settings_from": theirs.settings_from}  # in a comparison it says whose defaults these are
        assert ours.model_copy(update=own) == theirs


class TestOtherRuns:
    def test_a_run_with_a_test_split_reads_it_once_at_the_end_and_reports_it(self, tmp_path: Path) -> None:
        recipe = tiny_recipe({"seeds": [0]})
        components = open_components(recipe, allow_code=False, say=lambda text: None)
        components = replace(components, data=replace(components.data, test=components.data.val))
        asking = AskingParts(**{field.name: getattr(components, field.name) for field in fields(components)})
        run = run_recipe(recipe, tmp_path / "run", components=asking)
        results = read_results(run.path)
        assert results.split == "test"
        for row in results.rows:
            assert row.seeds[0].test.scores["top1"] == row.seeds[0].last.scores["top1"]  # the same images
        assert "test/teacher" in load_file(run.predictions_file)
        assert all("test" not in line for line in metrics(run, "epoch"))
        assert asking.asked.count("test") == 2  # the teacher's scores, and all students' together

    def test_a_student_without_a_teacher_is_trained_alone(self, tmp_path: Path) -> None:
        recipe = Recipe.read(
            {**tiny_recipe({"seeds": [0]}).as_dict(), "teacher": None, "rows": [], "method": "none"}, what="alone"
        )
        results = read_results(run_recipe(recipe, tmp_path / "run").path)
        (row,) = results.rows
        assert results.teacher is None
        assert (row.name, row.seeds[0].last.agreement, row.seeds[0].train.kl_to_teacher) == ("alone", None, None)
        assert results.comparisons == ()

    def test_a_run_that_diverges_still_ends_with_results_that_can_be_read(self, tmp_path: Path) -> None:
        recipe = tiny_recipe({"update": {"lr": 1e30}, "seeds": [0], "rows": ["alone", "kd"], "on_nan": "continue"})
        results = read_results(run_recipe(recipe, tmp_path / "run").path)
        assert not any(math.isfinite(row.seeds[0].last.scores["loss"]) for row in results.rows)

    @pytest.mark.slow
    def test_half_of_a_seed_is_never_taken_for_a_whole_one(self, recipe: Recipe, tmp_path: Path) -> None:
        run = run_recipe(recipe, tmp_path / "run")
        expected = reproducible_files(run)
        run.results_file.unlink()
        (run.checkpoints / "seed1.json").unlink()  # as if the power had gone before the record was written
        run.metrics_file.write_bytes(b"".join(lines_of_seed_0_and_teacher(run)))
        assert reproducible_files(run_recipe(recipe, tmp_path / "run")) == expected


def lines_of_seed_0_and_teacher(run: RunFolder) -> Iterator[bytes]:
    return (line for line in run.metrics_file.read_bytes().splitlines(keepends=True) if json.loads(line)["seed"] == 0)


class AskingParts(Components):
    """Parts that remember which splits they were asked for."""

    @cached_property
    def asked(self) -> list[str]:
        return []

    def eval_loader(self, split: str) -> EvalLoader:
        self.asked.append(split)
        return super().eval_loader(split)
