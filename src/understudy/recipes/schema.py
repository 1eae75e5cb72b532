"""Recipe: everything about a run, as one frozen tree of settings that is validated once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, SerializeAsAny, field_serializer, field_validator, model_validator

from understudy.core.compile import Capture, Compile
from understudy.core.config import Config
from understudy.core.image_size import ImageSize
from understudy.core.precision import Precision
from understudy.core.published import Published, as_list
from understudy.data import DataConfig
from understudy.methods import METHODS, MethodConfig
from understudy.optim import Joint, Schedule, UpdateConfig
from understudy.optim.ema import Averaging
from understudy.probes import probe_names
from understudy.recipes.further_teachers import FurtherTeacher, checked_heads, without_left_out
from understudy.recipes.keys import keys_of
from understudy.recipes.layers import ORIGIN, merged, method_names, nested, settings_alone
from understudy.recipes.loading import parsed_yaml, read_recipe, recipe_names
from understudy.recipes.method_settings import method_config, method_configs, update_config
from understudy.recipes.origin import Changed, Origin, changed_settings
from understudy.recipes.published import check_published
from understudy.recipes.row_settings import RowSettings, row_settings
from understudy.tasks import DetectionConfig, SegmentationConfig
from understudy.trackers.base import ALWAYS, tracker_names
from understudy.utils.errors import UserError, shortened_repr

__all__ = [
    "BankConfig",
    "Published",
    "Recipe",
    "StudentConfig",
    "TeacherConfig",
    "load_recipe",
    "lr_note",
    "merged",
    "method_config",
    "read_recipe",
    "recipe_from",
    "recipe_names",
]

MOST_SEEDS = 1_000
LARGEST_SEED = 10**18


class StudentConfig(Config):
    """The network that learns."""

    model: str  # timm:NAME | torchvision:NAME | cifar:NAME | understudy:NAME | hf:NAME | FILE.py:Class | MODULE:factory
    weights: str | None = None  # pretrained | none | FILE; None: pretrained where it can be had
    kwargs: dict[str, Any] = Field(default_factory=dict)  # further arguments of the network, such as width: 0.25

    def size_asked_for(self, data: DataConfig) -> ImageSize | None:
        """The size that it is to be built for; None: what its own arguments say, or the size it prefers."""
        return data.image_size


class TeacherConfig(Config):
    """The network that is learnt from."""

    model: str  # as the student's
    weights: str | None = None  # as the student's; FILE#KEY for one of several sets of tensors in a file
    kwargs: dict[str, Any] = Field(default_factory=dict)  # as the student's
    image_size: ImageSize | None = None  # as data.image_size; None: its kwargs', data.image_size, its own
    classes: str | tuple[int | str, ...] | dict[str, int | str] | None = None  # FILE: its class for each of the data's
    train_epochs: int = Field(default=0, ge=0)  # fine-tune it on the same data first, for so many epochs
    lr: float | None = Field(default=None, gt=0)  # of that fine-tuning; None: the recipe's
    expected: float | None = None  # of the task's headline, as published; further off than 0.5 points is warned of
    expected_top1: float | None = None  # percent; the same where the headline is top-1
    allow_weak: bool = False  # go on with a teacher at chance level
    also: dict[str, FurtherTeacher] = Field(default_factory=dict)  # further ones, by the head that learns from each

    @field_validator("also", mode="before")
    @classmethod
    def _left_out(cls, value: Any) -> Any:
        return without_left_out(value)

    @field_validator("also")
    @classmethod
    def _are_of_heads(cls, value: dict[str, FurtherTeacher]) -> dict[str, FurtherTeacher]:
        return checked_heads(value)

    @model_validator(mode="after")
    def _is_trained_on_one_set_of_classes(self) -> TeacherConfig:
        if self.classes is not None and self.train_epochs > 0:
            raise ValueError("classes: a teacher that is trained here learns the data's own classes; leave out one")
        if self.classes is not None and self.weights == "none":
            raise ValueError("classes: random weights know no classes; give weights, or leave classes out")
        if self.expected is not None and self.expected_top1 is not None:
            raise ValueError("expected and expected_top1 both say what the teacher reaches; leave out expected_top1")
        if self.also and (self.train_epochs > 0 or self.classes is not None):
            raise ValueError("also: several teachers know the data's classes already; leave out train_epochs, classes")
        return self

    def only(self, head: str | None) -> TeacherConfig:
        """The teacher of one head by itself; None: the first."""
        if head is None:
            return self.model_copy(update={"also": {}})
        return TeacherConfig.nested({**self.also[head].model_dump(), "allow_weak": True})

    def size_asked_for(self, data: DataConfig) -> ImageSize | None:
        """The size that it is to be built for; None: what its own arguments say, or the size it prefers."""
        says_so_itself = any(self.kwargs.get(key) is not None for key in ("img_size", "image_size"))
        return self.image_size or (None if says_so_itself else data.image_size)


class BankConfig(Config):
    """A teacher that is looked up in what `understudy bank` has stored, and never loaded."""

    path: str  # a folder with seedN/ for every seed of the run
    views: Literal["repeat", "unique"] = "repeat"  # unique: refuse a bank with fewer views than the run has epochs
    key: str | None = None  # of what the bank holds; a run writes it down, and another content is refused
    num_views: int | None = Field(default=None, ge=1)  # that the run began with; written down, too, and kept to


class Recipe(Config):
    """Everything about a run."""

    task: Literal["classification", "segmentation", "detection"] = "classification"  # of masks or boxes, what they say
    segmentation: SegmentationConfig = SegmentationConfig()  # of that task
    detection: DetectionConfig = DetectionConfig()  # likewise
    data: DataConfig
    teacher: TeacherConfig | None = None
    bank: BankConfig | None = None
    student: StudentConfig
    method: tuple[SerializeAsAny[MethodConfig], ...] = ()  # one mapping, a name, or a list of these; none: alone
    task_weight: float | None = Field(default=None, ge=0)  # None: the method's own default
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)  # of the task loss: the share that all classes divide
    class_weights: Literal["balanced"] | tuple[float, ...] | None = (
        None  # in the task loss; balanced: by their images, or pixels
    )
    update: SerializeAsAny[UpdateConfig] = Joint.Config()  # how losses become weights: a mapping, or its name
    schedule: Schedule = Schedule()
    lr_is_for_images: int | None = Field(default=None, ge=1)  # a step; a run with another number is told of it
    ema: Averaging | None = None  # a number is its decay; averaged weights are evaluated and deployed
    epochs: int = Field(default=30, ge=1)  # passes over the training data; with steps, the equal parts of the run
    steps: int | None = Field(default=None, ge=1)  # length of the run, whatever the number of images; None: epochs say
    select_on: Literal["last", "val", "test"] = "last"  # which epoch is the headline: the last, or the best on a split
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, max_length=MOST_SEEDS)  # a number n means 0 to n-1
    rows: tuple[str | RowSettings, ...] = ()  # of a compare: names such as kd+dot or crd+kd, or settings of their own
    device: str = "auto"  # auto | cpu | cuda | cuda:N | mps; auto: CUDA where there is one
    threads: int | None = Field(default=None, ge=1, le=1_024)  # of torch on the CPU; None: measured at the start
    precision: Precision = "float32"  # of the networks' passes; losses and weights stay float32
    accumulate: int = Field(default=1, ge=1)  # passes a step: each takes a part of the batch, for less memory
    compile: Compile = False  # the networks, by torch.compile; reduce-overhead is its mode with CUDA graphs
    capture: Capture = "auto"  # the whole step as one CUDA graph; true: refused where it cannot be
    tf32: bool = True  # on CUDA: float32 products with 10 bits of mantissa, several times as fast; false: with all 23
    fold_teacher: bool = True  # its batch norms into its convolutions: faster, equal up to rounding
    sync_batch_norm: bool = False  # several GPUs: batch statistics over all of them
    on_nan: Literal["stop", "rollback", "continue"] = "stop"  # a loss that is NaN or infinite; see docs/reliability.md
    channels_last: Literal[True, False, "auto"] = True  # memory format of convolutions; auto: measured at the start
    trackers: tuple[str, ...] = (ALWAYS,)  # who keeps the metrics; jsonl always does
    log_every: int = Field(default=50, ge=1)  # steps
    probes: tuple[str, ...] = ()  # what looks at students while they train; docs/analysis.md
    probe_every: int = Field(default=100, ge=1)  # steps from one look of a probe to the next; 100 costs under 2 %
    checkpoint_minutes: float = Field(default=10.0, gt=0)  # beside the one at the end of every epoch
    checkpoint_steps: int | None = Field(default=None, ge=1)  # likewise, by steps since the start
    published: tuple[Published, ...] = ()  # first the headline; one mapping is a list of one

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @classmethod
    def known_keys(cls) -> list[str]:
        """Every key, those of methods and updates too."""
        return [key.path for key in keys_of(cls) if key.path != "teacher.lr"]  # who writes lr means update.lr

    @field_validator("method", mode="before")
    @classmethod
    def _methods(cls, value: Any) -> tuple[MethodConfig, ...]:
        return method_configs(value)

    @field_validator("update", mode="before")
    @classmethod
    def _update(cls, value: Any) -> UpdateConfig:
        return update_config(value)

    @field_validator("rows", mode="before")
    @classmethod
    def _rows(cls, value: Any) -> Any:
        return tuple(map(row_settings, value)) if isinstance(value, list | tuple) else value

    @field_validator("ema", mode="before")
    @classmethod
    def _ema(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return Averaging.nested({"decay": value}) if is_number else value

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", name):
            raise ValueError(f"must be auto, cpu, cuda, cuda:N (such as cuda:1) or mps, got {shortened_repr(name)}")
        return name

    @field_validator("trackers", mode="before")
    @classmethod
    def _trackers(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("trackers")
    @classmethod
    def _are_registered(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tracker_names(names)

    @field_validator("probes", mode="before")
    @classmethod
    def _probes(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("probes")
    @classmethod
    def _probes_are_registered(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return probe_names(names)

    @field_validator("published", mode="before")
    @classmethod
    def _published(cls, value: Any) -> Any:
        return as_list(value)

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool)
        if is_count and value > MOST_SEEDS:
            raise ValueError(f"at most {MOST_SEEDS:,} seeds, got {value}")
        return tuple(range(value)) if is_count else value

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} names a seed twice")
        if any(abs(seed) >= LARGEST_SEED for seed in value):
            raise ValueError(f"{list(value)} has a seed of more than 18 digits, which results.json cannot hold")
        return value

    @model_validator(mode="after")
    def _published_by_metrics_of_the_task(self) -> Recipe:
        of_rows = {f"rows.{i}.published": row.published for i, row in enumerate(self.rows) if not isinstance(row, str)}
        check_published(self.task, {"published": self.published, **of_rows})
        return self

    @model_validator(mode="after")
    def _selects_on_what_it_says(self) -> Recipe:
        if self.data.val == "test" and self.select_on == "val":
            raise ValueError(
                "select_on: val would select on the test images, since data.val is test; write select_on: test"
            )
        if self.data.val != "test" and self.select_on == "test":
            raise ValueError(
                "select_on: test needs the test images after every epoch; set data.val: test, or select_on: val"
            )
        return self

    @model_validator(mode="after")
    def _warms_up_within_the_run(self) -> Recipe:
        try:
            self.schedule.check_run(self.epochs)
        except UserError as error:
            raise ValueError(f"schedule.warmup_epochs: {error}") from None
        return self

    @model_validator(mode="after")
    def _is_divided_into_equal_parts(self) -> Recipe:
        if self.steps is None:
            return self
        if self.steps % self.epochs:
            near = [n for n in range(1, min(self.steps, 2 * self.epochs + 20)) if self.steps % n == 0]
            fitting = ", ".join(map(str, sorted(near, key=lambda n: abs(n - self.epochs))[:3]))
            raise ValueError(
                f"steps: {self.steps} are no {self.epochs} equal parts, after each of which students are evaluated; "
                f"set epochs to one of {fitting}"
            )
        return self

    @model_validator(mode="after")
    def _can_split_its_batches(self) -> Recipe:
        if self.accumulate > 1 and self.data.copies != "none":
            raise ValueError(
                f"accumulate: {self.accumulate} would tear the copies of an image apart; leave it out, or set "
                "data.copies: none"
            )
        return self

    @model_validator(mode="after")
    def _can_be_banked(self) -> Recipe:
        if self.bank is None:
            return self
        if self.teacher is None:
            raise ValueError("a bank is of a teacher; set teacher.model to the one that was banked")
        if self.teacher.train_epochs > 0:
            raise ValueError(
                "a bank is of a teacher that is trained already: set teacher.train_epochs=0, and teacher.weights to "
                "what trained it (RUN/teacher of a run, or RUN of `understudy train --student MODEL --method alone`)"
            )
        if self.data.sampling == "balanced":
            raise ValueError(
                "data.sampling: a bank has every image once a view, and balanced sampling draws some several times and "
                "some not at all; leave out data.sampling, or the bank"
            )
        if self.data.streaming:
            raise ValueError("data.streaming: a bank is asked by sample number, which streamed images do not have")
        return self

    @model_validator(mode="after")
    def _teacher_is_there(self) -> Recipe:
        methods = [config for config in self.method if config.method.needs_teacher(config)]
        if self.teacher is None and (methods or any(_row_needs_teacher(row) for row in self.rows)):
            raise ValueError("distilling needs a teacher; set teacher.model, or method: none to train alone")
        return self

    @field_serializer("rows")
    def _rows_as_written(self, rows: tuple[str | RowSettings, ...]) -> list[Any]:
        return [row if isinstance(row, str) else row.model_dump(mode="json", exclude_unset=True) for row in rows]

    @field_serializer("method")
    def _named_methods(self, methods: tuple[MethodConfig, ...]) -> list[dict[str, Any]]:
        return [{"name": config.method.name, **config.model_dump(mode="json")} for config in methods]

    @property
    def origin(self) -> Origin:
        """The recipe that this one began as, and what was changed in it since."""
        return self._origin

    @property
    def task_settings(self) -> dict[str, Any]:
        """What the task is made with, beside what its data say."""
        return {} if self.task == "classification" else {"settings": getattr(self, self.task)}

    def with_rows(self, rows: Sequence[str | RowSettings]) -> Recipe:
        """The same recipe for other rows."""
        found = Recipe.read({**self.as_dict(), "rows": list(rows)}, what="this comparison")
        found._origin = self._origin
        return found

    def with_data(self, **settings: object) -> Recipe:
        """The same recipe under other settings of its data, which are known to be valid."""
        return self.model_copy(update={"data": self.data.model_copy(update=settings)})

    def as_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain values; `recipe_from` reads it back to an equal one."""
        return self.model_dump(mode="json")


def load_recipe(name_or_file: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by file or shipped name, with `key=value` overrides merged before the one validation.

    Raises:
        UserError: no such recipe, no YAML, or settings that do not validate (all problems in one message).
    """
    data = read_recipe(str(name_or_file))
    return recipe_from(data, overrides, what=f"recipe {name_or_file}")


def recipe_from(
    data: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    what: str = "recipe",
) -> Recipe:
    """A recipe from plain values, others laid on them, and `key=value` overrides."""
    settings = merged(data, settings or {})
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key.strip() or key.strip() != key:
            raise UserError(f"{override!r} is no override; write key=value, such as update.lr=0.01")
        settings = merged(settings, nested(key, parsed_yaml(value, what=f"the value of {key}")))
    recipe = Recipe.read(settings_alone(settings), what=what)
    return _with_origin(recipe, settings[ORIGIN]) if ORIGIN in settings else recipe


def _with_origin(recipe: Recipe, begun: Mapping[str, Any]) -> Recipe:
    """The recipe with what is known of its origin; what was published for other settings is left out."""
    name, changes = begun["recipe"], begun["changes"]
    changed = _changed(recipe, name) if changes else ()
    if changed and "published" not in changes:
        recipe = recipe.model_copy(update={"published": ()})
    if changed and "rows" not in changes:
        rows = [row if isinstance(row, str) else row.model_copy(update={"published": ()}) for row in recipe.rows]
        recipe = recipe.model_copy(update={"rows": tuple(rows)})
    recipe._origin = Origin(name, changes, changed, begun["data"])
    return recipe


def _changed(recipe: Recipe, name: str) -> tuple[Changed, ...]:
    try:
        before = Recipe.read(settings_alone(read_recipe(name)), what=name)
    except UserError:
        return ()  # half a recipe, which only what was laid on it made one
    if not before.published and all(isinstance(row, str) or not row.published for row in before.rows):
        return ()  # there is nothing that it could no longer stand beside
    return changed_settings(before.as_dict(), recipe.as_dict())


def lr_note(recipe: Recipe, images_per_step: int | None = None) -> str | None:
    """What to say where a step takes another number of images than the learning rate was chosen for.

    Args:
        recipe: with `lr_is_for_images`, or there is nothing to say.
        images_per_step: over all processes; None: the recipe's batch size.
    """
    images, meant = images_per_step or recipe.data.batch_size, recipe.lr_is_for_images
    if meant is None or images == meant:
        return None
    lr = recipe.update.lr
    return (
        f"update.lr {lr:g} was chosen for {meant} images a step, this run takes {images}; in proportion it would be "
        f"{lr * images / meant:.4g} (set lr_is_for_images={images} where the rate is meant as it is)"
    )


def _row_needs_teacher(row: str | RowSettings) -> bool:
    names = row.split("+") if isinstance(row, str) else method_names(row.changes().get("method")) or []
    methods = [METHODS[name] for name in names if name in METHODS]
    return any(method.needs_teacher(method.Config()) for method in methods)
