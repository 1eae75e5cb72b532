"""The contents of results.json, as types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from understudy.analysis import Summary
from understudy.core.config import Config
from understudy.core.image_size import ImageSize
from understudy.core.published import as_list

__all__ = [
    "ALONE",
    "SCHEMA",
    "Changed",
    "Comparison",
    "DataFacts",
    "Deployed",
    "Headline",
    "ModelFacts",
    "Published",
    "Results",
    "Row",
    "RowSummary",
    "Scores",
    "SeedResult",
    "Split",
    "Teacher",
    "TrainScores",
]

SCHEMA = 1
MOST_ROWS = 500  # beyond which no figure can be drawn
MOST_SEEDS = 1_000
MOST_CLASSES = 1_000_000
LARGEST = 1e100  # numbers beyond it are those of a run that diverged; sums and squares of them are no numbers
ALONE = "alone"  # the row in which the student learns without a teacher

Split = Literal["val", "test"]


def _null_is_nan(value: Any) -> Any:
    return math.nan if value is None else value


def _null_mean_is_nan(value: Any) -> Any:
    return {**value, "mean": _null_is_nan(value["mean"])} if isinstance(value, Mapping) and "mean" in value else value


def _huge_is_nan(value: float) -> float:
    return value if abs(value) <= LARGEST else math.nan


def _huge_are_nan(value: Summary) -> Summary:
    std = None if value.std is None else _huge_is_nan(value.std)
    return replace(value, mean=_huge_is_nan(value.mean), std=std)


# JSON has no NaN, so a diverged run's numbers may arrive as null.
Number = Annotated[float, BeforeValidator(_null_is_nan), AfterValidator(_huge_is_nan)]
Points = Annotated[float, Field(ge=-100, le=100)]
Count = Annotated[int, Field(ge=0)]
SeedSummary = Annotated[Summary, BeforeValidator(_null_mean_is_nan), AfterValidator(_huge_are_nan)]


class Record(Config):
    """A group of results: frozen; keys that a later version added are passed over, diverged numbers are kept."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True, populate_by_name=True)


class Scores(Record):
    """What a model reaches on one split: percent, and loss in nats."""

    top1: Number
    top5: Number | None = None  # above five classes only
    balanced_accuracy: Number | None = None  # percent: mean over the classes of the share that is right
    loss: Number | None = None
    agreement: Number | None = None  # percent of images on which teacher and student name one class
    epoch: Count | None = None


class TrainScores(Record):
    """The common yardstick on training batches, at the last epoch."""

    task_loss: Number
    kl_to_teacher: Number | None = None
    top1: Number | None = None


class ModelFacts(Record):
    """Name and size of a model."""

    model: str
    parameters: Count | None = None
    macs: Count | None = None
    image_size: ImageSize | None = None  # pixels
    starts_from: str = ""


class Teacher(ModelFacts):
    """The teacher, and what it reaches on the splits there are."""

    val: Scores | None = None
    test: Scores | None = None


class SeedResult(Record):
    """One row under one seed: last and best epoch apart."""

    seed: int
    selected: Scores  # of the epoch that is the headline, and of averaged weights where there are any
    last: Scores
    best: Scores
    raw: Scores | None = None  # of the weights without averaging, at the last epoch
    test: Scores | None = None
    train: TrainScores | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_ones_headline_the_last_epoch(cls, value: Any) -> Any:
        has_last = isinstance(value, Mapping) and "last" in value
        return {"selected": value["last"], **value} if has_last else value


class RowSummary(Record):
    """Mean and spread over seeds; None for what was not measured."""

    top1: SeedSummary
    last_top1: SeedSummary | None = None
    best_top1: SeedSummary | None = None
    raw_top1: SeedSummary | None = None
    agreement: SeedSummary | None = None
    test_top1: SeedSummary | None = None
    task_loss: SeedSummary | None = None
    kl_to_teacher: SeedSummary | None = None


class Published(Record):
    """What a table reports for this recipe."""

    top1: Number
    top5: Number | None = None
    task_loss: Number | None = None  # on training images
    distill_loss: Number | None = None
    source: str = ""


class Row(Record):
    """One way to train the student."""

    name: str
    methods: tuple[dict[str, Any], ...] = ()
    task_weight: float | None = None
    update: dict[str, Any] | None = None
    settings_from: str = ""  # whose settings: "this recipe", "recipe NAME", "defaults of DATA"
    varied: dict[str, Any] = Field(default_factory=dict)  # by key: what a sweep varies, and its value here
    published: tuple[Published, ...] = ()  # for this row
    student: ModelFacts
    seeds: tuple[SeedResult, ...] = Field(default=(), max_length=MOST_SEEDS)
    summary: RowSummary


class Comparison(Record):
    """Difference of two rows in percentage points, with its 95 % interval over images and seeds."""

    row: str
    against: str
    split: Split
    difference: Points
    low: Points
    high: Points
    num_images: Count
    num_seeds: Count

    @property
    def spans_zero(self) -> bool:
        """True where these images and seeds cannot tell the two rows apart."""
        return self.low <= 0 <= self.high


class DataFacts(Record):
    """The data set as the run saw it."""

    name: str
    num_classes: int = Field(ge=1, le=MOST_CLASSES)
    classes: tuple[str, ...] = ()
    num_train: Count
    num_val: Count
    num_test: Count = 0
    val_origin: str = ""
    augmentation: str = ""
    batch_size: Count | None = None
    notes: tuple[str, ...] = ()

    def class_name(self, number: int) -> str:
        """The label of class `number`; the number itself where the data set names none."""
        return self.classes[number] if number < len(self.classes) else str(number)


class Headline(Record):
    """The best row, and the sentence about it."""

    row: str
    sentence: str


class Deployed(Record):
    """Which student lies in the run folder, ready to load."""

    row: str
    seed: int
    folder: str


class Changed(Record):
    """A setting that is another one than in the recipe begun with."""

    key: str
    before: Any = None
    now: Any = None


class Results(Record):
    """Everything in results.json."""

    schema_number: int = Field(default=SCHEMA, alias="schema")
    name: str
    title: str = ""
    data: DataFacts
    epochs: Count
    seeds: tuple[int, ...] = Field(max_length=MOST_SEEDS)
    select_on: Literal["last", "val", "test"] = "last"  # which epoch is the headline
    weights: Literal["raw", "averaged"] = "raw"  # which weights are
    teacher: Teacher | None = None
    rows: tuple[Row, ...] = Field(max_length=MOST_ROWS)
    comparisons: tuple[Comparison, ...] = ()
    headline: Headline | None = None
    deployed: Deployed | None = None
    published: Annotated[tuple[Published, ...], BeforeValidator(as_list)] = ()  # first the headline
    changed: tuple[Changed, ...] = ()  # for which no published number stands beside the run
    changed_from: str | None = None  # the recipe begun with

    @property
    def split(self) -> Split:
        """The split that headlines speak of: test where every row was measured there, else val."""
        return "test" if self.rows and all(row.summary.test_top1 for row in self.rows) else "val"

    @property
    def epoch_words(self) -> str:
        """Which epoch the headlines speak of."""
        return {"last": "last epoch", "val": "best val epoch", "test": "best TEST epoch"}[self.select_on]

    @property
    def num_images(self) -> int:
        """Images in the headline's split."""
        return self.data.num_test if self.split == "test" else self.data.num_val

    @property
    def teacher_top1(self) -> float | None:
        """The teacher's top-1 in percent on the headline's split; None where it is not known."""
        scores = None if self.teacher is None else self.teacher.test if self.split == "test" else self.teacher.val
        return None if scores is None else scores.top1

    @property
    def best_row(self) -> Row | None:
        """The row with the highest mean top-1 at the headline's epoch; None where no row came to a number."""
        finite = [row for row in self.rows if math.isfinite(self.top1(row).mean)]
        return max(finite, key=lambda row: self.top1(row).mean, default=None)

    def top1(self, row: Row) -> Summary:
        """Top-1 of `row` at the headline's epoch and split, in percent."""
        on_test = row.summary.test_top1
        return on_test if self.split == "test" and on_test else row.summary.top1

    def row(self, name: str) -> Row | None:
        """The row called `name`, or None."""
        return next((row for row in self.rows if row.name == name), None)

    def comparison(self, row: str, against: str) -> Comparison | None:
        """`row` against `against` on the headline's split, or None where the run holds no such comparison."""
        wanted = (row, against, self.split)
        return next((c for c in self.comparisons if (c.row, c.against, c.split) == wanted), None)
