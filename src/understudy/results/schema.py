"""The contents of results.json, as types: a run builds and dumps them, a page reads them.

docs/results.md is generated from this file: the comment beside a field is what it says of a key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from understudy.analysis import Summary
from understudy.core.image_size import ImageSize
from understudy.methods.combination import ALONE
from understudy.results.comparison import Apart, Comparison, Split
from understudy.results.values import Count, Number, NumberOrNone, Record, SeedSummary, Sources
from understudy.tasks.base import Metric

__all__ = [
    "ALONE",
    "SCHEMA",
    "Apart",
    "Changed",
    "Comparison",
    "DataFacts",
    "Deployed",
    "Headline",
    "HeadsTeacher",
    "ModelFacts",
    "Results",
    "Row",
    "RowSummary",
    "Scores",
    "SeedResult",
    "Split",
    "Teacher",
    "TrainScores",
]

SCHEMA = 2
MOST_ROWS = 500  # beyond which no figure can be drawn
MOST_SEEDS = 1_000
MOST_CLASSES = 1_000_000
MOST_METRICS = 100


class Scores(Record):
    """What a model reaches on one split."""

    scores: dict[str, Number]  # by metric, in its unit; `top5` above five classes only
    agreement: NumberOrNone = None  # % of images on which both say the same, right or wrong; of boxes the teacher finds
    epoch: Count | None = None  # counted from 1

    def of(self, metric: Metric) -> float:
        """The score by this metric; NaN where there is none."""
        return self.scores.get(metric.name, math.nan)


class TrainScores(Record):
    """One yardstick for all rows on the training batches of the last epoch, without gradient; for `alone`, too."""

    task_loss: Number  # nats
    kl_to_teacher: NumberOrNone = None  # nats, T = 4, from student to teacher
    scores: dict[str, Number] = Field(default_factory=dict)  # by metric, of those that are counted in training


class ModelFacts(Record):
    """Name and size of a model."""

    model: str  # as in a recipe
    starts_from: str = ""  # where its first weights came from
    parameters: Count | None = None  # numbers, not bytes
    macs: Count | None = None  # multiply-accumulates of one image
    image_size: ImageSize | None = None  # pixels: the side of a square, or [height, width]


class HeadsTeacher(Record):
    """A teacher beside the first, which one head of the student learns from."""

    head: str  # of the student
    model: str  # as in a recipe
    val: Scores | None = None  # as the first one's
    test: Scores | None = None  # likewise


class Teacher(ModelFacts):
    """The teacher: a model, and what it reaches on the splits there are."""

    val: Scores | None = None  # null where its classes are not the data's
    test: Scores | None = None  # null where there is no such split, too
    also: tuple[HeadsTeacher, ...] = ()  # further ones; the scores are the first one's, the size is of all


class SeedResult(Record):
    """One row under one seed. The selected epoch is the last one unless the recipe says `select_on`."""

    seed: int  # of weights, order and views
    selected: Scores  # on the validation split, at the headline's epoch, of the weights that are deployed
    last: Scores  # likewise, at the last epoch
    best: Scores  # likewise, at the best epoch, chosen on the images that it is measured on: the headline metric alone
    raw: Scores | None = None  # of the weights without averaging, at the last epoch; null where nothing is averaged
    test: Scores | None = None  # at the selected epoch; null where there is no test split
    train: TrainScores | None = None  # the yardstick


class RowSummary(Record):
    """Over seeds, each `{mean, std, n}`; `std` is the sample standard deviation (divisor n - 1), null for one seed."""

    scores: dict[str, SeedSummary]  # by metric, at the selected epoch
    last: dict[str, SeedSummary] = Field(default_factory=dict)  # by metric, at the last epoch
    best: dict[str, SeedSummary] = Field(default_factory=dict)  # the headline metric at the best epoch
    raw: dict[str, SeedSummary] = Field(default_factory=dict)  # by metric, without averaging, if any
    test: dict[str, SeedSummary] = Field(default_factory=dict)  # by metric; empty where there is no test split
    agreement: SeedSummary | None = None  # null where there is no teacher
    task_loss: SeedSummary | None = None  # of the yardstick; null where more than the student is deployed
    kl_to_teacher: SeedSummary | None = None  # likewise


class Row(Record):
    """One way to train the student."""

    name: str  # `alone`, or methods joined by `+`, `+dot` for that update; or the recipe's own, such as `delta=0.05`
    methods: tuple[dict[str, Any], ...] = ()  # settings of each, its `name` and `weight` among them; empty for `alone`
    task_weight: float | None = None  # of the task's own loss
    update: dict[str, Any] | None = None  # settings of the update
    settings_from: str = ""  # whose: `this recipe`, `recipe NAME`, `defaults of DATA`, `the method's own defaults`
    varied: dict[str, Any] = Field(default_factory=dict)  # what a sweep varies, by key, and its value in this row
    published: Sources = ()  # what papers report for this row
    student: ModelFacts  # the network as deployed
    seeds: tuple[SeedResult, ...] = Field(default=(), max_length=MOST_SEEDS)  # one entry for each
    summary: RowSummary  # over the seeds


class DataFacts(Record):
    """The data set as the run saw it."""

    name: str  # of the data set
    num_classes: int = Field(ge=1, le=MOST_CLASSES)  # C
    classes: tuple[str, ...] = ()  # label names in the order of class numbers
    num_train: Count  # images to train on
    num_unlabelled: Count = 0  # those of them without a label
    num_val: Count  # images to validate on
    num_test: Count = 0  # images to test on; 0 where there is no test split
    val_origin: str = ""  # how the validation split came about
    augmentation: str = ""  # in words
    batch_size: Count | None = None  # images of a step
    notes: tuple[str, ...] = ()  # what a reader should know, in sentences

    def class_name(self, number: int) -> str:
        """The label of class `number`; the number itself where the data set names none."""
        return self.classes[number] if number < len(self.classes) else str(number)


class Headline(Record):
    """The best row, and the sentence about it."""

    row: str  # with the best mean by the headline metric
    sentence: str  # about it


class Deployed(Record):
    """Which student lies in the run folder, ready to load."""

    row: str  # whose
    seed: int  # the one that is best on the validation split
    folder: str  # within the run folder


class Changed(Record):
    """A setting that is another one than in the recipe begun with."""

    key: str  # as in a recipe
    before: Any = None  # in the recipe begun with
    now: Any = None  # in this run


class Results(Record):
    """Everything in results.json."""

    schema_number: int = Field(default=SCHEMA, alias="schema")  # `2`; another number is another layout
    name: str  # the run's short name
    title: str = ""  # the heading of its page, where that is not its name
    task: str = "classification"  # what is predicted
    metrics: tuple[Metric, ...] = Field(min_length=1, max_length=MOST_METRICS)  # what scores are by, in this order
    headline_metric: str  # the one of them that rows are compared by
    data: DataFacts  # what was trained and measured on
    epochs: Count  # how long
    seeds: tuple[int, ...] = Field(max_length=MOST_SEEDS)  # rows of one seed share batches and teacher passes
    select_on: Literal["last", "val", "test"] = "last"  # which epoch is the headline: the last, or the best on a split
    weights: Literal["raw", "averaged"] = "raw"  # which are evaluated and deployed: averaged where the recipe has `ema`
    teacher: Teacher | None = None  # null where there is none
    rows: tuple[Row, ...] = Field(max_length=MOST_ROWS)  # one entry for each way of training the student
    comparisons: tuple[Comparison, ...] = ()  # differences between rows, with their intervals
    headline: Headline | None = None  # the best row
    deployed: Deployed | None = None  # the student in the run folder
    published: Sources = ()  # what papers report for this recipe, the headline's source first
    changed: tuple[Changed, ...] = ()  # settings other than in the recipe begun with; not those of place and machine
    changed_from: str | None = None  # the name of the recipe begun with; null where nothing was changed

    @model_validator(mode="after")
    def _are_scored_by_the_headline_metric(self) -> Results:
        names = [metric.name for metric in self.metrics]
        if self.headline_metric not in names:
            raise ValueError(f"headline_metric {self.headline_metric!r} is none of the metrics: {', '.join(names)}")
        lacking = list(_places_without(self.rows, self.headline_metric))
        if lacking:
            raise ValueError(f"{lacking[0]} has no {self.headline_metric!r}, by which rows are compared")
        return self

    @property
    def metric(self) -> Metric:
        """The one that rows are compared by."""
        return next(metric for metric in self.metrics if metric.name == self.headline_metric)

    @property
    def split(self) -> Split:
        """The split that headlines speak of: test where every row was measured there, else val."""
        return "test" if self.rows and all(self.headline_metric in row.summary.test for row in self.rows) else "val"

    @property
    def epoch_words(self) -> str:
        """Which epoch the headlines speak of."""
        return {"last": "last epoch", "val": "best val epoch", "test": "best TEST epoch"}[self.select_on]

    @property
    def num_images(self) -> int:
        """Images in the headline's split."""
        return self.data.num_test if self.split == "test" else self.data.num_val

    @property
    def teacher_score(self) -> float | None:
        """The teacher's, by the headline metric on the headline's split; None where it is not known."""
        scores = None if self.teacher is None else self.teacher.test if self.split == "test" else self.teacher.val
        return None if scores is None else scores.scores.get(self.headline_metric)

    @property
    def best_row(self) -> Row | None:
        """The row with the best mean at the headline's epoch; None where no row came to a number."""
        return self.best_of(self.rows)

    def best_of(self, rows: Iterable[Row]) -> Row | None:
        """The one of these rows with the best mean at the headline's epoch; None where none came to a number."""
        finite = [row for row in rows if math.isfinite(self.score(row).mean)]
        return max(finite, key=lambda row: self.metric.worth(self.score(row).mean), default=None)

    def score(self, row: Row) -> Summary:
        """Of `row` by the headline metric, at the headline's epoch and split."""
        return (row.summary.test if self.split == "test" else row.summary.scores)[self.headline_metric]

    def seed_score(self, seed: SeedResult) -> float:
        """Of one seed of a row by the headline metric, at the headline's epoch and split."""
        return (seed.test if self.split == "test" and seed.test else seed.selected).of(self.metric)

    def row(self, name: str) -> Row | None:
        """The row called `name`, or None."""
        return next((row for row in self.rows if row.name == name), None)

    def comparison(self, row: str, against: str) -> Comparison | None:
        """`row` against `against` on the headline's split, or None where the run holds no such comparison."""
        wanted = (row, against, self.split)
        return next((c for c in self.comparisons if (c.row, c.against, c.split) == wanted), None)

    def as_dict(self) -> dict[str, Any]:
        """What results.json holds, as plain values; numbers that a diverged run did not come to are NaN."""
        return self.model_dump(by_alias=True)


def _places_without(rows: Iterable[Row], metric: str) -> Iterator[str]:
    """Where a score that is drawn is not there."""
    for number, row in enumerate(rows):
        if metric not in row.summary.scores:
            yield f"rows.{number}.summary.scores"
        for place, seed in enumerate(row.seeds):
            for name in ("selected", "last", "best"):
                if metric not in getattr(seed, name).scores:
                    yield f"rows.{number}.seeds.{place}.{name}.scores"
