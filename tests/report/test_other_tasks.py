"""Results of a task that is no classification: the same table, sentences, figures and page, in its own metrics."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.run_writer import results_with, write_run
from understudy.analysis import Summary, paired_bootstrap
from understudy.report import comparison_table, headline, read_run, render, row_sentence, write_report
from understudy.results.schema import Comparison, Results, Row, RowSummary, Scores, SeedResult
from understudy.tasks import Metric
from understudy.utils.text import json_text

MIOU = Metric("miou", "mIoU", "%")
ERROR = Metric("depth_error", "depth error", "m", higher_is_better=False)
PARTS = {"alone": 0.0, "kd": 2.0, "dist": 4.0}  # how much better than the student alone


def scored(seed: int, gain: float) -> dict[str, float]:
    return {"miou": 70 + gain + seed / 10, "depth_error": (80 - gain - seed / 10) / 1000}


def row(name: str, gain: float) -> Row:
    seeds = []
    for seed in (0, 1):
        last = Scores(scores=scored(seed, gain), epoch=8)
        seeds.append(SeedResult(seed=seed, selected=last, last=last, best=last))
    means = {
        metric: Summary((scored(0, gain)[metric] + scored(1, gain)[metric]) / 2, 0.07, 2) for metric in scored(0, 0)
    }
    student = {"model": "cifar:resnet8", "parameters": 12_042}
    return Row(name=name, student=student, seeds=tuple(seeds), summary=RowSummary(scores=means, best=means))


@pytest.fixture(params=[MIOU, ERROR], ids=lambda metric: metric.name)
def run(request, tmp_path):
    """A finished run of segmentation with depth, compared by one or the other."""
    metric = request.param
    write_run(tmp_path)
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 40)) * (100 if metric is MIOU else 0.1)
    items = {
        name: np.array([scored(seed, gain)[metric.name] for seed in (0, 1)])[:, None] + noise
        for name, gain in PARTS.items()
    }
    compared = []
    for name in ("kd", "dist"):
        found = paired_bootstrap(items[name], items["alone"], resamples=200)
        ends = {"difference": found.difference, "low": found.low, "high": found.high}
        compared.append(Comparison(row=name, against="alone", split="val", num_images=40, num_seeds=2, **ends))
    results = Results(
        name="streets",
        task="segmentation",
        metrics=(MIOU, ERROR),
        headline_metric=metric.name,
        data={"name": "streets", "num_classes": 19, "num_train": 100, "num_val": 40},
        epochs=8,
        seeds=(0, 1),
        teacher={
            "model": "cifar:resnet20",
            "parameters": 272_474,
            "val": {"scores": {"miou": 80.0, "depth_error": 0.05}},
        },
        rows=tuple(row(name, gain) for name, gain in PARTS.items()),
        comparisons=tuple(compared),
        published=({"miou": 74.5, "source": "a paper, table 2"},),
    )
    (tmp_path / "results.json").write_text(json_text(results.as_dict()))
    save_file(
        {f"items/val/{name}/{seed}": of[seed] for name, of in items.items() for seed in (0, 1)},
        tmp_path / "predictions.safetensors",
    )
    lines = [
        {"kind": "epoch", "seed": seed, "row": name, "epoch": epoch, "train": {"task_loss": 1 / epoch},
         "val": scored(seed, gain + epoch / 10)}
        for name, gain in PARTS.items() for seed in (0, 1) for epoch in (1, 2)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_page_is_drawn_in_its_own_metrics_and_knows_no_other(run):
    page = write_report(run).read_text()

    text = re.sub(r"(?s)<style>.*?</style>|<svg.*?</svg>|<[^>]+>", " ", page)
    assert not re.search(r"top-?[15]|accuracy|class by class", text, re.IGNORECASE)
    assert re.search(r"mIoU|depth error", text)
    assert "What is missing" not in text
    ids = set(re.findall(r'id="([a-z]+)"', page))
    assert {"table", "curves", "accuracy", "differences"} <= ids
    assert not {"classes", "outcomes"} & ids
    assert "bars are 95 % intervals over images and seeds" in text


def test_the_table_has_the_headline_metrics_columns_in_its_unit(run):
    results = read_run(run).results
    table = comparison_table(results)

    metric = results.metric
    titles = [(column.key, column.title, column.note) for column in table.columns[:3]]
    assert titles[:2] == [
        ("row", "row", ""), (metric.name, metric.title, f"{metric.unit}, last epoch")
    ]  # fmt: skip
    assert titles[2][0] == f"best_{metric.name}"
    assert [line.kind for line in table.lines] == ["teacher", "row", "row", "best"]
    shown = {"miou": ["80.0", "70.0 ± 0.1", "72.0 ± 0.1", "74.0 ± 0.1"], "depth_error": ["0.050", "0.080 ± 0.070"]}
    assert [line.cells[1].text for line in table.lines][: len(shown[metric.name])] == shown[metric.name]
    assert "top" not in render(table, "csv").splitlines()[0]
    assert "Published: mIoU 74.50 % (a paper, table 2)." in table.notes


def test_the_best_row_is_the_lowest_where_less_is_better_and_leads_by_what_it_is_below():
    found = results_with(
        {"alone": 0.08, "kd": 0.076},
        {("kd", "alone"): (-0.004, -0.006, -0.002)},
        teacher=0.05,
        metric=ERROR,
        task="depth",
    )

    assert headline(found).startswith(
        "kd is the best row: 0.076 m ± 0.300, ahead of the student alone by 0.004 m (95 % interval 0.002 to 0.006); "
        "it is above the teacher's 0.050 m at 1/23 of its parameters."
    )
    assert row_sentence(found, found.rows[1]).startswith(
        "kd is ahead of alone by 0.004 m (95 % interval 0.002 to 0.006)"
    )


def test_the_student_alone_is_best_where_its_error_is_the_lowest():
    found = results_with(
        {"alone": 0.08, "kd": 0.09}, {("kd", "alone"): (0.01, 0.004, 0.02)}, metric=ERROR, task="depth"
    )

    assert "the nearest, kd, is behind it by 0.01 m (95 % interval 0.004 to 0.02)" in headline(found)


def test_a_difference_without_an_interval_is_said_in_the_metrics_unit():
    found = results_with({"alone": 0.08, "kd": 0.07}, metric=ERROR, task="depth", teacher=None)

    assert headline(found) == "kd has the lowest mean: 0.070 m ± 0.300, 0.01 m below the student alone (no interval)."


def test_a_percentage_is_kept_of_the_teachers_under_the_metrics_own_name():
    found = results_with({"alone": 70.0, "kd": 72.0}, {("kd", "alone"): (2.0, 1.0, 3.0)}, teacher=80.0, metric=MIOU)

    assert headline(found).endswith("it keeps 90.0 % of the teacher's mIoU at 1/23 of its parameters.")


def test_a_headline_metric_that_is_none_of_the_metrics_is_refused(run):
    data = read_run(run).results.as_dict()

    with pytest.raises(ValueError, match="headline_metric 'top1' is none of the metrics: miou, depth_error"):
        Results.model_validate({**data, "headline_metric": "top1"})
