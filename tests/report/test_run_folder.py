"""Reading run folders, whole and broken."""

import json

import numpy as np
import pytest

from helpers.run_writer import results_of, write_run
from understudy.report import Results, read_results, read_run, read_timing
from understudy.utils.errors import UserError
from understudy.utils.machine import describe_environment


def test_a_whole_run_folder_misses_nothing(full_run):
    run = read_run(full_run)

    assert run.missing == ()
    assert len(run.epochs) == 3 * 3 * 8
    assert run.predictions is not None
    assert run.predictions.rows["kd"].shape == (3, 450)
    assert run.timing.run_seconds == 61.4


def test_results_survive_writing_and_reading_unchanged(full_run):
    results = read_results(full_run)

    again = Results.model_validate_json(results.model_dump_json(by_alias=True))

    assert again == results


def test_a_folder_without_results_says_what_writes_them(tmp_path):
    with pytest.raises(UserError, match=r"results.json: there is no such file; a run writes it when it ends"):
        read_run(tmp_path)


def test_results_of_another_schema_are_refused(tmp_path, full_run):
    (tmp_path / "results.json").write_text(json.dumps(results_of(full_run, schema=7)))

    with pytest.raises(UserError, match="has schema 7, but this version reads 1 and 2"):
        read_results(tmp_path)


def test_results_that_are_no_json_are_refused(tmp_path):
    (tmp_path / "results.json").write_text('{"schema": 1')

    with pytest.raises(UserError, match="is no JSON"):
        read_results(tmp_path)


def test_results_with_several_faults_name_them_all(tmp_path, full_run):
    data = results_of(full_run, epochs="many")
    del data["data"]["num_val"]
    (tmp_path / "results.json").write_text(json.dumps(data))

    with pytest.raises(UserError, match="2 problems") as caught:
        read_results(tmp_path)
    assert "data.num_val" in str(caught.value)
    assert "epochs" in str(caught.value)


def test_keys_of_a_later_version_are_passed_over(tmp_path, full_run):
    (tmp_path / "results.json").write_text(json.dumps(results_of(full_run, landscape=[1, 2])))

    assert read_results(tmp_path).name == "demo"


def test_every_absent_file_is_named_with_what_is_lost(tmp_path):
    run = write_run(tmp_path)
    names = ["metrics.jsonl", "timing.jsonl", "environment.json", "recipe.yaml", "predictions.safetensors"]
    for name in names:
        (run / name).unlink()

    missing = read_run(run).missing

    assert all(any(sentence.startswith(name) for sentence in missing) for name in names)
    assert len(missing) == 5


def test_a_line_cut_off_by_a_crash_costs_that_line_only(tmp_path):
    run = write_run(tmp_path)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "seed": 0, "ro')

    found = read_run(run)

    assert len(found.epochs) == 3 * 3 * 8
    assert found.missing == ("metrics.jsonl: 1 line could not be read.",)


def test_an_epoch_that_was_done_again_after_an_interruption_counts_once(tmp_path):
    run = write_run(tmp_path)
    line = {"kind": "epoch", "seed": 0, "row": "kd", "epoch": 8, "train": {"task_loss": 0.125}}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")

    epochs = [record for record in read_run(run).epochs if (record.row, record.seed, record.epoch) == ("kd", 0, 8)]

    assert [record.train.task_loss for record in epochs] == [0.125]


def test_predictions_that_cannot_be_read_are_said_not_raised(tmp_path):
    run = write_run(tmp_path)
    (run / "predictions.safetensors").write_bytes(b"no tensors")

    found = read_run(run)

    assert found.predictions is None
    assert "predictions.safetensors could not be read" in found.missing[0]


def test_the_headline_is_on_the_test_split_only_where_every_row_was_measured_there(tmp_path):
    run = write_run(tmp_path, has_test=True)
    data = results_of(run)

    assert Results.model_validate(data).split == "test"
    data["rows"][0]["summary"]["test"] = {}
    assert Results.model_validate(data).split == "val"


def test_predictions_follow_the_headlines_split(tmp_path):
    run = read_run(write_run(tmp_path, has_test=True))

    assert run.predictions is not None
    right = 100 * np.mean(run.predictions.rows["kd"] == run.predictions.labels)
    assert right == pytest.approx(run.results.score(run.results.rows[1]).mean)


def test_a_run_continued_in_parts_took_the_sum_of_them(tmp_path):
    (tmp_path / "timing.jsonl").write_text('{"kind": "run", "seconds": 10}\n{"kind": "run", "seconds": 5.5}\n')

    assert read_timing(tmp_path / "timing.jsonl").run_seconds == 15.5


def test_run_folders_of_these_tests_name_the_hardware_as_runs_do(full_run):
    told = json.loads((full_run / "environment.json").read_text())

    known = describe_environment()
    assert told.keys() == known.keys()
    assert told["hardware"].keys() <= {*known["hardware"], "gpu"}
