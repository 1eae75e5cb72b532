"""Recipe: everything about a run, as one frozen tree of settings that is validated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, field_serializer, field_validator, model_validator

from understudy.config import Config, UserError, nearest, unknown_name
from understudy.data import DataConfig
from understudy.methods import METHODS, MethodConfig
from understudy.updates import UPDATES, Joint, Schedule, UpdateConfig

__all__ = [
    "Published",
    "Recipe",
    "StudentConfig",
    "TeacherConfig",
    "load_recipe",
    "merged",
    "method_config",
    "read_recipe",
    "recipe_from",
    "recipe_names",
]

MAX_RECIPE_BYTES = 1_000_000
ALONE = ("alone", "none")
ABOUT_A_MODEL = ("weights", "kwargs", "expected_top1")  # what another model does not inherit


class StudentConfig(Config):
    """The network that learns."""

    model: str  # timm:NAME | torchvision:NAME | cifar:NAME | module.path:factory
    weights: str | None = None  # pretrained | none | FILE; None: pretrained where it can be had
    kwargs: dict[str, Any] = Field(default_factory=dict)  # further arguments of the network, such as width: 0.25


class TeacherConfig(Config):
    """The network that is learnt from."""

    model: str
    weights: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    train_epochs: int = Field(default=0, ge=0)  # fine-tune it on the same data first, for so many epochs
    lr: float | None = Field(default=None, gt=0)  # of that fine-tuning; None: the recipe's
    expected_top1: float | None = None  # percent; a teacher further off than 0.5 points is warned of
    allow_weak: bool = False  # go on with a teacher at chance level


class Published(Config):
    """What a paper reports for this recipe."""

    top1: float
    source: str


class Recipe(Config):
    """Everything about a run."""

    task: Literal["classification"] = "classification"
    data: DataConfig
    teacher: TeacherConfig | None = None
    student: StudentConfig
    method: tuple[SerializeAsAny[MethodConfig], ...] = ()  # one mapping, a name, or a list of these; none: alone
    task_weight: float | None = Field(default=None, ge=0)  # None: the method's own default
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    update: SerializeAsAny[UpdateConfig] = Joint.Config()
    schedule: Schedule = Schedule()
    epochs: int = Field(default=30, ge=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)  # a number n means 0 to n-1
    rows: tuple[str, ...] = ()  # of a compare, such as alone, kd, kd+dot, crd+kd
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1)  # of torch on the CPU; None: its own choice
    channels_last: bool = True  # memory format of convolutions: on CPUs and tensor cores the faster one
    log_every: int = Field(default=50, ge=1)  # steps
    checkpoint_minutes: float = Field(default=10.0, gt=0)  # beside the one at the end of every epoch
    published: Published | None = None

    @field_validator("method", mode="before")
    @classmethod
    def _methods(cls, value: Any) -> tuple[MethodConfig, ...]:
        value = value.split("+") if isinstance(value, str) else value
        items = value if isinstance(value, Sequence) else [value]
        return tuple(method_config(item) for item in items if not _is_none(item))

    @field_validator("update", mode="before")
    @classmethod
    def _update(cls, value: Any) -> UpdateConfig:
        if isinstance(value, UpdateConfig):
            return value
        if not isinstance(value, str | Mapping):
            raise ValueError(f"must be joint, dot, or a mapping with one of these as its name, got {value!r}")
        settings = {"name": value} if isinstance(value, str) else dict(value)
        name = settings.setdefault("name", "joint")
        if name not in UPDATES:
            raise ValueError(f"{name!r} is {unknown_name(str(name), UPDATES)}")
        return UPDATES[name].Config.nested(settings)

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: Any) -> Any:
        return tuple(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} names a seed twice")
        return value

    @model_validator(mode="after")
    def _teacher_is_there(self) -> Recipe:
        methods = [config for config in self.method if config.method.needs_teacher(config)]
        if self.teacher is None and (methods or any(_row_needs_teacher(row) for row in self.rows)):
            raise ValueError("distilling needs a teacher; set teacher.model, or method: none to train alone")
        return self

    @field_serializer("method")
    def _named_methods(self, methods: tuple[MethodConfig, ...]) -> list[dict[str, Any]]:
        return [{"name": config.method.name, **config.model_dump(mode="json")} for config in methods]

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


def recipe_from(data: Mapping[str, Any], overrides: Sequence[str] = (), *, what: str = "recipe") -> Recipe:
    """A recipe from plain values and overrides."""
    settings = dict(data)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise UserError(f"{override!r} is no override; write key=value, such as update.lr=0.01")
        nested: Any = _parsed_yaml(value, what=f"the value of {key}")
        for part in reversed(key.split(".")):
            nested = {part: nested}
        settings = merged(settings, nested)
    return Recipe.read(settings, what=what)


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    root = Path(str(resources.files("understudy") / "recipes"))
    files = (file for file in root.rglob("*.yaml") if file.stem != "base")  # a base is extended, not run
    return sorted(str(file.relative_to(root).with_suffix("")) for file in files)


def _row_needs_teacher(row: str) -> bool:
    methods = [METHODS[part] for part in row.split("+") if part in METHODS]
    return any(method.needs_teacher(method.Config()) for method in methods)


def _is_none(item: Any) -> bool:
    name = item.get("name") if isinstance(item, Mapping) else item
    return item is None or (isinstance(name, str) and name in ALONE)


def method_config(item: Any) -> MethodConfig:
    """Settings of a method from its name, a mapping with its name, or themselves."""
    if isinstance(item, MethodConfig):
        return item
    if not isinstance(item, str | Mapping):
        raise ValueError(f"must be a method's name or a mapping with one, got {item!r}")
    settings = {"name": item} if isinstance(item, str) else dict(item)
    if "name" not in settings:
        raise ValueError(f"these settings have no name, so no method is meant: {', '.join(map(str, settings))}")
    name = str(settings.pop("name"))
    if name not in METHODS:
        raise ValueError(f"{name!r} is {unknown_name(name, ['none', *METHODS])}")
    return METHODS[name].Config.nested(settings)


def read_recipe(name_or_file: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The plain values of a recipe file or shipped recipe, laid on those of the recipes that it extends."""
    file = _found(name_or_file)
    here = str(file.resolve())
    if here in seen:
        raise UserError(f"recipe {name_or_file} extends itself: {' -> '.join((*seen, here))}")
    data = _read_yaml(file)
    parent = data.pop("extends", None)
    if parent is None:
        return data
    beside = file.parent / str(parent)
    named = str(beside) if beside.suffix in (".yaml", ".yml") and beside.is_file() else str(parent)
    return merged(read_recipe(named, (*seen, here)), data)


def _found(name_or_file: str) -> Path:
    file = Path(name_or_file)
    if file.suffix in (".yaml", ".yml"):
        if not file.is_file():
            raise UserError(f"there is no recipe file {name_or_file}")
        return file
    names, root = recipe_names(), Path(str(resources.files("understudy") / "recipes"))
    for shipped in (root / f"{name_or_file}.yaml", root / "classification" / f"{name_or_file}.yaml"):
        if shipped.is_file() and shipped.resolve().is_relative_to(root.resolve()):
            return shipped
    close = nearest(name_or_file, [short for name in names for short in (name, name.split("/", 1)[-1])])
    hint = f"did you mean {close}? " if close else ""
    raise UserError(f"there is no recipe {name_or_file!r}; {hint}`understudy recipes` lists them, a file ends in .yaml")


def _read_yaml(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_RECIPE_BYTES:
        raise UserError(f"recipe {file} has {file.stat().st_size:,} bytes; a recipe has at most {MAX_RECIPE_BYTES:,}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"recipe {file} is no UTF-8 text") from None
    data = _parsed_yaml(text, what=f"recipe {file}")
    if not isinstance(data, dict):
        raise UserError(f"recipe {file} must be a mapping of settings, got {type(data).__name__}")
    return data


def _parsed_yaml(text: str, *, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{what} is no YAML: {' '.join(str(error).split())}") from None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping.

    A mapping with a new `name` replaces the old one, since another method's settings mean nothing to it; another
    update keeps what all updates have (learning rate, momentum, decay), another model what is not about weights.
    """
    result = dict(base)
    for key, value in over.items():
        before = result.get(key)
        if key in ("method", "update"):
            value, before = _as_mapping(value), _as_mapping(before)
        if not (isinstance(before, Mapping) and isinstance(value, Mapping)):
            result[key] = value
        elif value.get("name", before.get("name")) == before.get("name"):
            kept = {name: setting for name, setting in before.items() if name not in ABOUT_A_MODEL}
            has_new_model = value.get("model", before.get("model")) != before.get("model")
            result[key] = merged(kept if has_new_model else before, value)
        elif key == "update":
            shared = {name: setting for name, setting in before.items() if name in UpdateConfig.model_fields}
            result[key] = {**shared, **value}
        else:
            result[key] = dict(value)
    return result


def _as_mapping(value: Any) -> Any:
    """'kd' as {name: kd}; anything else, 'crd+kd' too, as it is."""
    return {"name": value} if isinstance(value, str) and "+" not in value else value
