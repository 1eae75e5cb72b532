"""results.json of before, turned into what is written now: schema 1 knew classification alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.tasks import Classification
from understudy.tasks.class_evaluation import METRICS

__all__ = ["from_schema_1", "seed_from_schema_1"]

NAMES = tuple(metric.name for metric in METRICS)
MOST_CLASSES_WITHOUT_TOP5 = 5


def from_schema_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same results as schema 2 writes them; what is malformed stays so, for the reader to say."""
    changes: dict[str, Any] = {
        "schema": 2,
        "metrics": [metric for metric in METRICS if metric.name != "top5" or _has_top5(data.get("data"))],
        "headline_metric": Classification.headline,
    }
    if isinstance(teacher := data.get("teacher"), Mapping):
        changes["teacher"] = {**teacher, **{split: _scores(teacher.get(split)) for split in ("val", "test")}}
    if isinstance(rows := data.get("rows"), list):
        changes["rows"] = [_row(row) for row in rows]
    return {**data, **changes}


def seed_from_schema_1(seed: Any) -> Any:
    """One entry of a row's `seeds`."""
    if not isinstance(seed, Mapping):
        return seed
    selected = seed.get("selected", seed.get("last"))  # older ones headline the last epoch
    found = {**seed, "selected": selected}
    splits = ("selected", "last", "best", "raw", "test")
    return {**found, **{name: _scores(found[name]) for name in splits if name in found}, "train": _train(found)}


def _has_top5(data: Any) -> bool:
    number = data.get("num_classes") if isinstance(data, Mapping) else None
    return not isinstance(number, int) or number > MOST_CLASSES_WITHOUT_TOP5


def _row(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return row
    changes: dict[str, Any] = {}
    if isinstance(seeds := row.get("seeds"), list):
        changes["seeds"] = [seed_from_schema_1(seed) for seed in seeds]
    if isinstance(summary := row.get("summary"), Mapping):
        changes["summary"] = _summary(summary)
    return {**row, **changes}


def _scores(scores: Any) -> Any:
    """{top1, loss, agreement, epoch} as {scores: {top1, loss}, agreement, epoch}."""
    if not isinstance(scores, Mapping):
        return scores
    # Only top-1 may be null: of a run that diverged. The others are null where they were not measured.
    by_metric = {
        name: scores[name] for name in NAMES if name in scores and (scores[name] is not None or name == "top1")
    }
    return {"scores": by_metric, **{name: scores[name] for name in ("agreement", "epoch") if name in scores}}


def _train(seed: Mapping[str, Any]) -> Any:
    train = seed.get("train")
    if not isinstance(train, Mapping):
        return train
    return {**train, "scores": {"top1": train["top1"]} if train.get("top1") is not None else {}}


def _summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """{top1, last_top1, ...} as {scores: {top1}, last: {top1}, ...}."""
    places = {"scores": "top1", "last": "last_top1", "best": "best_top1", "raw": "raw_top1", "test": "test_top1"}
    found = {place: {"top1": summary[key]} if summary.get(key) is not None else {} for place, key in places.items()}
    return {**found, **{name: summary.get(name) for name in ("agreement", "task_loss", "kl_to_teacher")}}
