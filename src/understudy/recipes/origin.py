"""Where a recipe comes from: the one that it began as, and which settings are other ones by now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Changed", "Origin", "changed_settings", "is_free"]

# Settings that decide where, on what and how often something is trained, not what: a published number still stands
# beside the outcome. Precision and memory format change roundings.
FREE = (
    "data.root", "data.workers", "data.cache", "data.eval_batch_size", "data.on_bad_image",
    "teacher.weights", "teacher.expected", "teacher.expected_top1", "teacher.allow_weak",
    "seeds", "rows", "published", "device", "threads", "precision", "compile", "fold_teacher", "channels_last",
    "trackers", "log_every", "checkpoint_minutes", "checkpoint_steps", "lr_is_for_images",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Changed:
    """A setting that is another one than in the recipe begun with; plain values."""

    key: str
    before: Any
    now: Any


@dataclass(frozen=True)
class Origin:
    """The recipe that was begun with, and what was laid on it since.

    Two recipes that came to the same settings are equal, whatever way they took: so are their origins.

    Attributes:
        recipe: a shipped name in full, or a file; None: settings that come from no file.
        changes: strategies, options and key=value in one, as they were written.
        changed: what is otherwise for it, but for what decides only where and how something is computed.
        data: folder of the shipped recipes of its data set, "classification/cifar100"; None where it is none of them.
    """

    recipe: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[Changed, ...] = ()
    data: str | None = None

    def has_laid(self, key: str) -> bool:
        """Whether a strategy, an option or key=value said something of this setting."""
        value: Any = self.changes
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return 0


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Changed, ...]:
    """The settings in which two resolved recipes differ, but for those of `FREE`."""
    return tuple(changed for changed in _differences(before, now) if not is_free(changed.key))


def is_free(key: str) -> bool:
    """Whether a setting decides only where, on what machine or how often something is trained."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _differences(before: Any, now: Any, path: str = "") -> Iterator[Changed]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif _is_one_method(before) and _is_one_method(now):
        yield from _differences(before[0], now[0], path)
    elif before != now:
        yield Changed(path, before, now)


def _is_one_method(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping)
