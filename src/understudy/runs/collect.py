"""What a run came to, as the types of results.json: the same on every repetition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from understudy.analysis.intervals import Summary, summary
from understudy.methods import MethodConfig
from understudy.methods.combination import weighted
from understudy.optim import DEFAULT_UPDATE
from understudy.recipes import comparison
from understudy.results.intervals import paired_difference, samples_of
from understudy.results.schema import (
    Apart,
    Changed,
    Comparison,
    DataFacts,
    ModelFacts,
    Results,
    Row,
    RowSummary,
    Scores,
    SeedResult,
    Split,
    Teacher,
    TrainScores,
)
from understudy.runs.components import Components
from understudy.tasks import Evaluation, Metric
from understudy.tasks.base import headline_metric
from understudy.training.trainer import Trainer

__all__ = ["assemble", "scored_teacher", "seed_result"]


def seed_result(
    trainer: Trainer, name: str, *, seed: int, found: Mapping[str, Evaluation], teacher: Mapping[str, Evaluation]
) -> SeedResult:
    """What one row reached with one seed: last and best epoch apart, test read once at the end.

    Args:
        trainer: at its end.
        name: of the row.
        seed: of the row.
        found: by split, scores of the weights that are deployed: the last epoch's, or those of the epoch selected.
        teacher: its scores by split; empty where there is none.
    """
    task, history = trainer.students[0].task, trainer.history[name]
    metric = headline_metric(task)
    last, best = history[-1], max(history, key=lambda record: metric.worth(record["val"][metric.name]))
    epoch = best["epoch"] if trainer.selects_best else last["epoch"]
    selected = _scores(found["val"], teacher.get("val"), epoch=epoch)
    return SeedResult(
        seed=seed,
        selected=selected,
        last=Scores(scores=last["val"], epoch=last["epoch"]) if trainer.selects_best else selected,
        best=Scores(scores={metric.name: best["val"][metric.name]}, epoch=best["epoch"]),
        raw=Scores(scores=last["val_raw"]) if "val_raw" in last else None,
        test=_scores(found["test"], teacher.get("test")) if "test" in found else None,
        train=_train_scores(last["train"], task.metrics),
    )


def assemble(
    components: Components,
    rows: Sequence[comparison.Variant],
    *,
    name: str,
    seeds: Mapping[str, Sequence[SeedResult]],
    students: Mapping[str, ModelFacts],
    teacher: Teacher | None,
    predictions: Mapping[str, Tensor],
    notes: Sequence[str] = (),
) -> Results:
    """The results of a run whose seeds are all done, but for the headline and what is deployed.

    Args:
        components: of the run.
        rows: in the order of the table.
        name: of the run.
        seeds: per row, `seed_result` of each seed.
        students: per row, `models.cost.model_facts` of what is deployed.
        teacher: what is known of it, and its scores; None where there is none.
        predictions: what the evaluations of rows and teacher are kept as.
        notes: of the run, beside those of its data and teacher.
    """
    recipe, origin = components.recipe, components.recipe.origin
    results = Results(
        name=name,
        task=recipe.task,
        metrics=components.task.metrics,
        headline_metric=components.task.headline,
        data=_data_facts(components, notes),
        epochs=recipe.epochs,
        seeds=recipe.seeds,
        select_on=recipe.select_on,
        weights="raw" if recipe.ema is None else "averaged",
        teacher=teacher,
        rows=tuple(_row(row, students[row.name], seeds[row.name], components.task.metrics) for row in rows),
        published=() if recipe.rows else recipe.published,
        changed=tuple(Changed(key=one.key, before=one.before, now=one.now) for one in origin.changed),
        changed_from=origin.recipe if origin.changed else None,
    )
    compared = _comparisons(results, rows, predictions, absent=recipe.segmentation.absent)
    return results.model_copy(update={"comparisons": tuple(compared)})


def scored_teacher(facts: Mapping[str, Any], found: Mapping[str, Evaluation]) -> Teacher:
    """A teacher's size, and what it reaches on the splits it was scored on."""
    scores = {split: Scores(scores=dict(evaluation.scores)) for split, evaluation in found.items()}
    return Teacher(**facts, val=scores.get("val"), test=scores.get("test"))


def _data_facts(components: Components, notes: Sequence[str]) -> DataFacts:
    data = components.data
    return DataFacts(
        name=data.name,
        num_classes=len(data.classes),
        classes=tuple(data.classes),
        num_train=len(data.train),
        num_unlabelled=data.num_unlabelled,
        num_val=len(data.val),
        num_test=0 if data.test is None else len(data.test),
        val_origin=data.val_origin,
        augmentation=components.augmentation,
        batch_size=components.recipe.data.batch_size,
        notes=(*data.notes, *(() if components.teacher is None else components.teacher.notes), *notes),
    )


def _scores(evaluation: Evaluation, teacher: Evaluation | None, *, epoch: int | None = None) -> Scores:
    agreement = None if teacher is None else evaluation.agreement_with(teacher)
    return Scores(scores=dict(evaluation.scores), agreement=agreement, epoch=epoch)


def _train_scores(train: Mapping[str, float], metrics: Sequence[Metric]) -> TrainScores:
    scores = {metric.name: train[metric.name] for metric in metrics if metric.name in train}
    return TrainScores(task_loss=train["task_loss"], kl_to_teacher=train.get("kl_to_teacher"), scores=scores)


def _row(row: comparison.Variant, student: ModelFacts, seeds: Sequence[SeedResult], metrics: Sequence[Metric]) -> Row:
    # In training the yardstick is held to the student's own output, which says nothing of what replaces it.
    has_yardstick = not any(config.method.deploys_more() for config in row.method)
    return Row(
        name=row.name,
        methods=tuple(_method(config) for config in row.method),
        task_weight=row.task_weight,
        update=row.model_dump(mode="json")["update"],
        settings_from=row.settings_from,
        varied=row.varied,
        published=row.published,
        student=student,
        seeds=tuple(seeds),
        summary=_row_summary(seeds, metrics, has_yardstick=has_yardstick),
    )


def _method(config: MethodConfig) -> dict[str, Any]:
    weight, warmup_epochs = weighted(config)
    own = {"name": config.method.name, **config.model_dump(mode="json")}
    return {**own, "weight": weight, "warmup_epochs": warmup_epochs}


def _row_summary(seeds: Sequence[SeedResult], metrics: Sequence[Metric], *, has_yardstick: bool) -> RowSummary:
    def by_metric(scores: Sequence[Scores | None]) -> dict[str, Summary]:
        found = {m.name: _summary([one.scores.get(m.name) if one else None for one in scores]) for m in metrics}
        return {name: there for name, there in found.items() if there is not None}

    yardstick = [seed.train for seed in seeds if seed.train] if has_yardstick else []
    return RowSummary(
        scores=by_metric([seed.selected for seed in seeds]),
        last=by_metric([seed.last for seed in seeds]),
        best=by_metric([seed.best for seed in seeds]),
        raw=by_metric([seed.raw for seed in seeds]),
        test=by_metric([seed.test for seed in seeds]),
        agreement=_summary([seed.selected.agreement for seed in seeds]),
        task_loss=_summary([train.task_loss for train in yardstick]),
        kl_to_teacher=_summary([train.kl_to_teacher for train in yardstick]),
    )


def _summary(values: Sequence[float | None]) -> Summary | None:
    there = [value for value in values if value is not None]
    if not there:
        return None
    if len(there) < len(values):  # a seed that diverged has no mean with the others
        return Summary(float("nan"), None, len(values))
    return summary(there)


def _comparisons(
    results: Results, rows: Sequence[comparison.Variant], predictions: Mapping[str, Tensor], *, absent: str
) -> list[Comparison]:
    """Differences between rows with their 95 % intervals, on test where there is one."""
    split: Split = "test" if results.data.num_test else "val"
    pairs = list(dict.fromkeys(_pairs(results, rows)))
    named = dict.fromkeys(name for pair in pairs for name in pair)
    samples = {name: samples_of(predictions, split=split, row=name, seeds=results.seeds) for name in named}
    found: list[Comparison] = []
    for place, (row, against) in enumerate(pairs):
        if (against, row) in pairs[:place]:
            continue
        apart = paired_difference(samples[row], samples[against], absent=absent)
        if apart is None:  # a task that does not tell item by item
            continue
        found.append(
            Comparison(
                row=row,
                against=against,
                split=split,
                difference=apart.headline.difference,
                low=apart.headline.low,
                high=apart.headline.high,
                num_images=apart.headline.num_images,
                num_seeds=apart.headline.num_seeds,
                beside={
                    name: Apart(difference=one.difference, low=one.low, high=one.high)
                    for name, one in apart.beside.items()
                },
            )
        )
    return found


def _pairs(results: Results, rows: Sequence[comparison.Variant]) -> Iterator[tuple[str, str]]:
    """Every row against the student alone and against itself under the default update; the best one and the next."""
    alone = next((row.name for row in rows if not row.method), None)
    for row in rows:
        if alone is not None and row.name != alone:
            yield row.name, alone
    for row in rows:
        if (plain := _counterpart(row, rows)) is not None:
            yield row.name, plain
    best = results.best_row
    second = None if best is None else results.best_of(row for row in results.rows if row is not best)
    if best is not None and second is not None:
        yield best.name, second.name


def _counterpart(row: comparison.Variant, rows: Sequence[comparison.Variant]) -> str | None:
    """The row with the same methods and weights under the default update; None where it is that, or there is none."""
    if row.update.name == DEFAULT_UPDATE:
        return None
    same = [one for one in rows if (one.method, one.task_weight) == (row.method, row.task_weight)]
    return next((one.name for one in same if one.update.name == DEFAULT_UPDATE), None)
