"""Writes run folders as a finished run leaves them, with made-up but consistent numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from understudy.analysis import Summary, agreement, paired_bootstrap, summary
from understudy.report import ALONE, Results
from understudy.results.schema import (
    Comparison,
    DataFacts,
    Deployed,
    ModelFacts,
    Row,
    RowSummary,
    Scores,
    SeedResult,
    Split,
    Teacher,
    TrainScores,
)
from understudy.tasks import Classification, Metric
from understudy.utils.text import json_text

NUM_IMAGES = 450
NUM_CLASSES = 10
ACCURACY = {"alone": 0.90, "kd": 0.925, "kd+dot": 0.945, "dist": 0.93, "dist+dot": 0.935, "projector": 0.91}


def write_run(
    folder: Path,
    *,
    rows: Sequence[str] = ("alone", "kd", "kd+dot"),
    seeds: Sequence[int] = (0, 1, 2),
    has_teacher: bool = True,
    classes: Sequence[str] = tuple(str(digit) for digit in range(NUM_CLASSES)),
    accuracy: Mapping[str, float] = ACCURACY,
    title: str = "Digits, told by a small student",
    num_epochs: int = 8,
    has_test: bool = False,
    num_classes: int = NUM_CLASSES,
) -> Path:
    """Fill `folder` with every file of a run; predictions, accuracies and comparisons fit each other."""
    folder.mkdir(parents=True, exist_ok=True)
    predictions = _predictions(
        rows, seeds, accuracy, has_teacher=has_teacher, splits=_splits(has_test), num_classes=num_classes
    )
    results = _results(predictions, rows, seeds, classes, title, num_epochs, has_teacher=has_teacher, has_test=has_test)
    (folder / "results.json").write_text(json_text(results.as_dict()))
    _write_lines(folder / "metrics.jsonl", _metrics(rows, seeds, num_epochs, has_teacher=has_teacher))
    speeds = [("cifar:resnet8", "student", 11_432.0), ("cifar:resnet20", "teacher", 1_216.0)]
    _write_lines(
        folder / "timing.jsonl",
        [
            {"kind": "speed", "model": model, "role": role, "images_per_second": speed, "threads": 2, "batch": 256}
            for model, role, speed in speeds
        ]
        + [{"kind": "run", "seconds": 61.4}],
    )
    environment = {
        "hardware": {"processor": "two cores", "cores": 2, "threads": 2, "gpu": None},
        "versions": {"python": "3.11", "torch": "2.15.0"},
        "commit": "abc1234",
        "command": "understudy demo",
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "recipe.yaml").write_text("data: {name: digits}\nepochs: 8\n")
    save_file(predictions, folder / "predictions.safetensors")
    return folder


def write_sweep(
    folder: Path,
    varied: Sequence[Mapping[str, Any]],
    *,
    published: Sequence[float] = (),
    rows: Sequence[str] = ("alone",),
    **options: Any,
) -> Path:
    """A run of these rows and of one for each of `varied`, with what was published for the first of them."""
    names = [" ".join(f"{key}={value}" for key, value in one.items()) for one in varied]
    write_run(folder, rows=[*rows, *names], accuracy={name: 0.88 + 0.01 * i for i, name in enumerate(names)}, **options)
    results = results_of(folder)
    for number, row in enumerate(results["rows"][len(rows) :]):
        row["varied"] = dict(varied[number])
        if number < len(published):
            row["published"] = [{"top1": published[number], "task_loss": 0.1, "source": "a table"}]
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def results_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """results.json of a folder as a dict, with top-level keys replaced."""
    return copy.deepcopy(json.loads((folder / "results.json").read_text())) | changes


def results_with(
    means: dict[str, float],
    comparisons: dict[tuple[str, str], tuple[float, float, float]] | None = None,
    *,
    seeds: int = 3,
    teacher: float | None = 98.9,
    student_parameters: int = 12_042,
    metric: Metric = Classification.metrics[0],
    task: str = "classification",
) -> Results:
    """Results with these means, a deviation of 0.3, and (difference, low, high) by pair of rows."""
    std = 0.3 if seeds > 1 else None
    rows = tuple(
        Row(
            name=name,
            methods=() if name == ALONE else ({"name": name.split("+")[0]},),
            student=ModelFacts(model="cifar:resnet8", parameters=student_parameters),
            summary=RowSummary(scores={metric.name: Summary(mean, std, seeds)}),
        )
        for name, mean in means.items()
    )
    found = tuple(
        Comparison(
            row=row, against=other, split="val", difference=d, low=low, high=high, num_images=450, num_seeds=seeds
        )
        for (row, other), (d, low, high) in (comparisons or {}).items()
    )
    scored = None if teacher is None else Scores(scores={metric.name: teacher})
    return Results(
        name="demo",
        task=task,
        metrics=(metric,),
        headline_metric=metric.name,
        data=DataFacts(name="digits", num_classes=10, num_train=1347, num_val=450, val_origin="held out"),
        epochs=20,
        seeds=tuple(range(seeds)),
        teacher=None if scored is None else Teacher(model="cifar:resnet20", parameters=272_474, val=scored),
        rows=rows,
        comparisons=found,
    )


def _splits(has_test: bool) -> tuple[Split, ...]:
    return ("val", "test") if has_test else ("val",)


def _predictions(
    rows: Sequence[str],
    seeds: Sequence[int],
    accuracy: Mapping[str, float],
    *,
    has_teacher: bool,
    splits: Sequence[str],
    num_classes: int,
) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    for split in splits:
        labels = generator.integers(0, num_classes, NUM_IMAGES)
        difficulty = generator.random(NUM_IMAGES)  # an image hard for one model is hard for all

        def predicted(right: float, labels: np.ndarray = labels, difficulty: np.ndarray = difficulty) -> np.ndarray:
            wrong = (labels + generator.integers(1, 4, NUM_IMAGES)) % num_classes
            noise = 0.03 * generator.standard_normal(NUM_IMAGES)
            return np.where(difficulty + noise < right, labels, wrong).astype(np.int16)

        tensors[f"{split}/labels"] = labels.astype(np.int16)
        if has_teacher:
            tensors[f"{split}/teacher"] = predicted(0.985)
        for row in rows:
            for seed in seeds:
                tensors[f"{split}/{row}/{seed}"] = predicted(accuracy.get(row, 0.9) + 0.004 * (seed % 3 - 1))
        tensors |= _certainties(tensors, split, difficulty, has_teacher=has_teacher)
    return tensors


def _certainties(
    tensors: Mapping[str, np.ndarray], split: str, difficulty: np.ndarray, *, has_teacher: bool
) -> dict[str, np.ndarray]:
    """How sure each model is, the less the harder an image, and how far it is from the teacher."""
    found: dict[str, np.ndarray] = {f"index/{split}": np.arange(NUM_IMAGES)}
    sure = (0.99 - 0.6 * difficulty**4).astype(np.float32)
    for key, said in tensors.items():
        if not key.startswith(f"{split}/") or key == f"{split}/labels":
            continue
        found[f"confidence/{key}"] = sure
        found[f"label_probability/{key}"] = np.where(said == tensors[f"{split}/labels"], sure, (1 - sure) / 9)
        if has_teacher and key != f"{split}/teacher":
            found[f"kl/{key}"] = (0.1 + (said != tensors[f"{split}/teacher"]) * (1 + difficulty)).astype(np.float32)
    return found


def write_disagreements(folder: Path, count: int = 4, split: str = "val") -> None:
    """disagreements.parquet and predictions.parquet, as far as the page reads them, of a run in `folder`."""
    import io

    import pyarrow
    from PIL import Image
    from pyarrow import parquet

    images = []
    for i in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (30 * i, 90, 200)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    columns = {
        "split": [split] * count,
        "index": list(range(count)),
        "file": [f"val/<b>/{i}.jpg" for i in range(count)],
        "image": images,
    }
    parquet.write_table(pyarrow.table(columns), folder / "disagreements.parquet")
    names = {"split": [split] * NUM_IMAGES, "file": [f"val/{i}.jpg" for i in range(NUM_IMAGES)]}
    parquet.write_table(pyarrow.table(names), folder / "predictions.parquet")


def _results(
    predictions: dict[str, np.ndarray],
    rows: Sequence[str],
    seeds: Sequence[int],
    classes: Sequence[str],
    title: str,
    num_epochs: int,
    *,
    has_teacher: bool,
    has_test: bool,
) -> Results:
    def top1(split: str, name: str) -> float:
        return float(100 * np.mean(predictions[f"{split}/{name}"] == predictions[f"{split}/labels"]))

    task = Classification(len(classes))
    return Results(
        name="demo",
        title=title,
        metrics=task.metrics,
        headline_metric=task.headline,
        data=DataFacts(
            name="digits",
            num_classes=len(classes),
            classes=tuple(classes),
            num_train=1347,
            num_val=NUM_IMAGES,
            num_test=NUM_IMAGES if has_test else 0,
            val_origin="held out by seed 0",
            augmentation="crop (pad 1)",
        ),
        epochs=num_epochs,
        seeds=tuple(seeds),
        teacher=_teacher(top1, has_test) if has_teacher else None,
        rows=tuple(_row(predictions, top1, row, seeds, num_epochs, has_teacher, has_test) for row in rows),
        comparisons=tuple(_comparisons(predictions, rows, seeds, _splits(has_test))),
        deployed=Deployed(row=rows[-1], seed=seeds[0], folder="student"),
    )


def _teacher(top1: Any, has_test: bool) -> Teacher:
    return Teacher(
        model="cifar:resnet20",
        parameters=272_474,
        macs=2_500_000,
        starts_from="trained here",
        val=Scores(scores={"top1": top1("val", "teacher"), "top5": 99.9, "loss": 0.04}),
        test=Scores(scores={"top1": top1("test", "teacher"), "loss": 0.05}) if has_test else None,
    )


def _row(
    predictions: dict[str, np.ndarray],
    top1: Any,
    name: str,
    seeds: Sequence[int],
    num_epochs: int,
    has_teacher: bool,
    has_test: bool,
) -> Row:
    by_seed = []
    for seed in seeds:
        trained = f"{name}/{seed}"
        agrees = agreement(predictions[f"val/{trained}"], predictions["val/teacher"]) if has_teacher else None
        reached = top1("val", trained)
        last = Scores(scores={"top1": reached, "loss": 0.2}, agreement=agrees, epoch=num_epochs)
        train = TrainScores(task_loss=0.02 + 0.01 * len(name), kl_to_teacher=2.0 / len(name) if has_teacher else None)
        best = Scores(scores={"top1": reached + 0.4}, epoch=max(1, num_epochs - 2))
        test = Scores(scores={"top1": top1("test", trained), "loss": 0.2}) if has_test else None
        by_seed.append(SeedResult(seed=seed, selected=last, last=last, best=best, test=test, train=train))

    def over_seeds(values: Sequence[float | None]) -> Summary | None:
        there = [value for value in values if value is not None]
        return summary(there) if there else None

    methods = [{"name": part, "weight": 0.9} for part in name.split("+") if part not in ("alone", "dot")]
    return Row(
        name=name,
        methods=tuple(methods),
        task_weight=0.1 if methods else 1.0,
        update={"name": "dot" if name.endswith("+dot") else "joint", "momentum": 0.9},
        student=ModelFacts(model="cifar:resnet8", parameters=12_042, macs=190_000, starts_from="seeded"),
        seeds=tuple(by_seed),
        summary=RowSummary(
            scores={"top1": summary([seed.selected.scores["top1"] for seed in by_seed])},
            best={"top1": summary([seed.best.scores["top1"] for seed in by_seed])},
            test={"top1": summary([seed.test.scores["top1"] for seed in by_seed if seed.test])} if has_test else {},
            agreement=over_seeds([seed.selected.agreement for seed in by_seed]),
            task_loss=over_seeds([seed.train.task_loss for seed in by_seed if seed.train]),
            kl_to_teacher=over_seeds([seed.train.kl_to_teacher for seed in by_seed if seed.train]),
        ),
    )


def _comparisons(
    predictions: dict[str, np.ndarray], rows: Sequence[str], seeds: Sequence[int], splits: Sequence[Split]
) -> list[Comparison]:
    if ALONE not in rows:
        return []
    found = []
    for split in splits:
        labels = predictions[f"{split}/labels"]
        right = {row: np.stack([predictions[f"{split}/{row}/{seed}"] == labels for seed in seeds]) for row in rows}
        for row in rows:
            if row == ALONE:
                continue
            interval = paired_bootstrap(right[row], right[ALONE], resamples=500)
            ends = {"difference": interval.difference, "low": interval.low, "high": interval.high}
            counts = {"num_images": interval.num_images, "num_seeds": interval.num_seeds}
            found.append(Comparison(row=row, against=ALONE, split=split, **ends, **counts))
    return found


def _metrics(rows: Sequence[str], seeds: Sequence[int], num_epochs: int, *, has_teacher: bool) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for epoch in range(1, num_epochs + 1):
        for place, row in enumerate(rows):
            for seed in seeds:
                slower = 1 + 0.15 * place + 0.05 * seed
                task, kl = 2.3 * 0.6 ** (epoch / slower), 3.0 * 0.75**epoch / (1 + place)
                lines.append(
                    {"kind": "train", "seed": seed, "row": row, "epoch": epoch, "step": 22 * epoch, "task": task}
                )
                train = {"task_loss": task, "kl_to_teacher": kl if has_teacher else None, "top1": 90.0}
                val = {"top1": 95 - 60 * 0.6 ** (epoch * slower), "loss": 0.2, "agreement": 90.0}
                line = {"kind": "epoch", "seed": seed, "row": row, "epoch": epoch, "train": train, "val": val}
                lines.append(line)
    return lines


def _write_lines(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
