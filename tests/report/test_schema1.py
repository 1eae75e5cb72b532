"""Results that the version before wrote, with another layout."""

import json
from pathlib import Path

import pytest

from understudy.report import comparison_table, headline, read_results, render, write_report
from understudy.results.reading import results_from
from understudy.utils.errors import UserError

WRITTEN = Path(__file__).parent / "schema1" / "results.json"  # by a run of the last version with that schema
EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence" / "cifar10-10k-cpu.results.json"  # by an older one still


@pytest.fixture
def written() -> dict:
    return json.loads(WRITTEN.read_text())


@pytest.mark.parametrize("file", [WRITTEN, EVIDENCE], ids=["the last version", "an older one"])
def test_the_sentence_about_them_is_the_one_that_their_own_version_wrote(file):
    results = read_results(file)

    assert headline(results) == json.loads(file.read_text())["headline"]["sentence"]


def test_every_score_is_found_under_its_metric(written):
    results = read_results(WRITTEN)

    assert [metric.name for metric in results.metrics] == ["top1", "top5", "balanced_accuracy", "loss"]
    row, old = results.rows[1], written["rows"][1]
    seed, old_seed = row.seeds[1], old["seeds"][1]
    for place in ("selected", "last", "best", "raw"):
        for name, score in getattr(seed, place).scores.items():
            assert score == old_seed[place][name]
    assert seed.selected.agreement == old_seed["selected"]["agreement"]
    assert seed.train.kl_to_teacher == old_seed["train"]["kl_to_teacher"]
    for place, key in (("scores", "top1"), ("last", "last_top1"), ("best", "best_top1"), ("raw", "raw_top1")):
        assert getattr(row.summary, place)["top1"].mean == old["summary"][key]["mean"]
    assert row.summary.test == {}
    assert results.teacher.val.scores["loss"] == written["teacher"]["val"]["loss"]


def test_those_without_a_selected_epoch_headline_the_last():
    seed = read_results(EVIDENCE).rows[0].seeds[1]

    assert seed.selected == seed.last
    assert seed.best.epoch == 28


def test_their_page_and_table_are_drawn(tmp_path):
    (tmp_path / "results.json").write_text(EVIDENCE.read_text())

    table = render(comparison_table(read_results(tmp_path)), "md")

    assert "| **projector** | **76.2 ± 0.1** |" in table
    assert "76.2 ± 0.1" in write_report(tmp_path).read_text()


def test_what_is_wrong_in_them_is_said_by_the_key_of_today(written):
    del written["rows"][0]["seeds"][0]["last"]["top1"]
    with pytest.raises(UserError, match=r"rows\.0\.seeds\.0\.last\.scores has no 'top1', by which rows are compared"):
        results_from(written, what="results.json")
    written["epochs"] = "many"
    with pytest.raises(UserError, match=r"results\.json, 1 problem\n  epochs   "):
        results_from(written, what="results.json")
