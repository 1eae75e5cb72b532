"""results.json: what came out, the same on every repetition. docs/results.md documents every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from understudy.analysis.intervals import paired_bootstrap, summary
from understudy.methods import MethodConfig
from understudy.methods.combination import weighted
from understudy.recipes.comparison import Row
from understudy.runs.components import Parts
from understudy.tasks import Evaluation
from understudy.tasks.base import headline_metric
from understudy.training.trainer import Trainer

__all__ = ["SCHEMA", "assemble", "seed_record"]

SCHEMA = 1


def seed_record(
    trainer: Trainer, name: str, *, seed: int, found: Mapping[str, Evaluation], teacher: Mapping[str, Evaluation]
) -> dict[str, Any]:
    """What one row reached with one seed: last and best epoch apart, test read once at the end.

    Args:
        trainer: at its end.
        name: of the row.
        seed: of the row.
        found: by split, scores of the weights that are deployed: the last epoch's, or those of the epoch selected.
        teacher: its scores by split; empty where there is none.
    """
    history, metric = trainer.history[name], headline_metric(trainer.students[0].task)
    last, best = history[-1], max(history, key=lambda record: metric.worth(record["val"][metric.name]))
    epoch = best["epoch"] if trainer.selects_best else last["epoch"]
    selected = {"epoch": epoch, **_scores(found["val"], teacher.get("val"))}
    record: dict[str, Any] = {
        "seed": seed,
        "selected": selected,
        "last": {"epoch": last["epoch"], **last["val"], "agreement": None} if trainer.selects_best else selected,
        "best": {"epoch": best["epoch"], metric.name: best["val"][metric.name]},
        "raw": last.get("val_raw"),
        "test": _scores(found["test"], teacher.get("test")) if "test" in found else None,
        "train": {"kl_to_teacher": None, **last["train"]},
    }
    return record


def assemble(
    parts: Parts,
    rows: Sequence[Row],
    *,
    name: str,
    seed_records: Mapping[str, Sequence[Mapping[str, Any]]],
    students: Mapping[str, Mapping[str, Any]],
    teacher: Mapping[str, Evaluation],
    predictions: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The results of a run whose seeds are all done, but for the headline.

    Args:
        parts: of the run.
        rows: in the order of the table.
        name: of the run.
        seed_records: per row, `seed_record` of each seed.
        students: per row, `models.cost.model_facts` of what is deployed.
        teacher: its evaluations by split; empty where there is no teacher.
        predictions: by "split/row/seed" and "split/labels", (N,) predicted classes.
    """
    recipe, data = parts.recipe, parts.data
    return {
        "schema": SCHEMA,
        "name": name,
        "task": recipe.task,
        "data": {
            "name": data.name,
            "num_classes": len(data.classes),
            "classes": list(data.classes),
            "num_train": len(data.train),
            "num_unlabelled": data.num_unlabelled,
            "num_val": len(data.val),
            "num_test": 0 if data.test is None else len(data.test),
            "val_origin": data.val_origin,
            "augmentation": parts.augmentation,
            "batch_size": recipe.data.batch_size,
            "notes": [*data.notes, *(() if parts.teacher is None else parts.teacher.notes)],
        },
        "epochs": recipe.epochs,
        "seeds": list(recipe.seeds),
        "select_on": recipe.select_on,
        "weights": "raw" if recipe.ema is None else "averaged",
        "teacher": _teacher_facts(parts, teacher),
        "rows": [_row_facts(row, students[row.name], seed_records[row.name]) for row in rows],
        "comparisons": _comparisons(rows, recipe.seeds, predictions),
        "published": [] if recipe.rows else [source.model_dump() for source in recipe.published],
        "changed": [{"key": one.key, "before": one.before, "now": one.now} for one in recipe.origin.changed],
        "changed_from": recipe.origin.recipe if recipe.origin.changed else None,
    }


def _scores(evaluation: Evaluation, teacher: Evaluation | None) -> dict[str, Any]:
    agreement = None if teacher is None else evaluation.agreement_with(teacher)
    return {**evaluation.scores, "agreement": agreement}


def _teacher_facts(parts: Parts, evaluations: Mapping[str, Evaluation]) -> dict[str, Any] | None:
    if parts.teacher is None:
        return None
    scores = {split: dict(evaluations[split].scores) if split in evaluations else None for split in ("val", "test")}
    return {**parts.teacher.facts(), **scores}


def _row_facts(row: Row, student: Mapping[str, Any], seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    settings = row.model_dump(mode="json")
    # In training the yardstick is held to the student's own output, which says nothing of what replaces it.
    yardstick = [] if any(config.method.deploys_more() for config in row.method) else [seed["train"] for seed in seeds]
    return {
        "name": row.name,
        "methods": [
            {"name": config.method.name, **config.model_dump(mode="json"), **_weights(config)} for config in row.method
        ],
        "task_weight": row.task_weight,
        "update": settings["update"],
        "settings_from": row.settings_from,
        "varied": row.varied,
        "published": settings["published"],
        "student": dict(student),
        "seeds": list(seeds),
        "summary": {
            "top1": _summary([seed["selected"]["top1"] for seed in seeds]),
            "last_top1": _summary([seed["last"]["top1"] for seed in seeds]),
            "best_top1": _summary([seed["best"]["top1"] for seed in seeds]),
            "raw_top1": _summary([seed["raw"] and seed["raw"]["top1"] for seed in seeds]),
            "agreement": _summary([seed["selected"]["agreement"] for seed in seeds]),
            "test_top1": _summary([seed["test"] and seed["test"]["top1"] for seed in seeds]),
            "task_loss": _summary([train["task_loss"] for train in yardstick]),
            "kl_to_teacher": _summary([train["kl_to_teacher"] for train in yardstick]),
        },
    }


def _weights(config: MethodConfig) -> dict[str, Any]:
    weight, warmup_epochs = weighted(config)
    return {"weight": weight, "warmup_epochs": warmup_epochs}


def _summary(values: Sequence[float | None]) -> dict[str, Any] | None:
    there = [value for value in values if value is not None]
    if not there:
        return None
    if len(there) < len(values):  # a seed that diverged has no mean with the others
        return {"mean": None, "std": None, "n": len(values)}
    found = summary(there)
    return {"mean": found.mean, "std": found.std, "n": found.n}


def _comparisons(rows: Sequence[Row], seeds: Sequence[int], predictions: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Every row against the student alone, with a 95 % interval, on test where there is one."""
    baseline = next((row.name for row in rows if not row.method), None)
    if baseline is None:
        return []
    split = "test" if "test/labels" in predictions else "val"

    def correct(row: str) -> npt.NDArray[np.bool_]:
        labels = predictions[f"{split}/labels"]
        return np.stack([(predictions[f"{split}/{row}/{seed}"] == labels).numpy() for seed in seeds])

    found = []
    for row in rows:
        if row.name != baseline:
            interval = paired_bootstrap(correct(row.name), correct(baseline))
            found.append(
                {
                    "row": row.name,
                    "against": baseline,
                    "split": split,
                    "difference": interval.difference,
                    "low": interval.low,
                    "high": interval.high,
                    "num_images": interval.num_images,
                    "num_seeds": interval.num_seeds,
                }
            )
    return found
