"""Settings laid on one another as plain values: what replaces what, and what was laid on the recipe one began with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from understudy.optim import UPDATES, UpdateConfig
from understudy.recipes.origin import is_free
from understudy.utils.errors import UserError, shortened_repr

__all__ = ["ORIGIN", "WHERE", "merge_layers", "merged", "method_names", "nested", "settings_alone"]

WHOLE = ("published",)  # settings of which a layer gives all or none: what a table says of one run, it says of no other
ABOUT_A_MODEL = ("weights", "kwargs", "expected", "expected_top1")  # what another model does not inherit
ORIGIN = " origin"  # beside the settings (none is called so): the recipe one began with, and what was laid on it since
WHERE = "where"  # beside the settings: rules for some students or methods, [{student: NAMES, update: {lr: 0.01}}]
SUBJECTS = ("student", "method")  # what a rule may ask for


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping.

    A mapping with a new `name` replaces the old one, since another method's settings mean nothing to it; another
    update keeps what all updates have (learning rate, momentum, decay), another optimizer what it reads too, another
    model what is not about weights. What was published is replaced as a whole. Rules under `where` hold as soon as
    student and method are known, each right above the layer that brings it along.
    """
    below, above = settings_alone(base), settings_alone(over)
    known = _laid(below, above)
    below, waiting = _with_rules(below, base.get(WHERE), known)
    result, also_waiting = _with_rules(_laid(below, above), over.get(WHERE), known)
    if waiting or also_waiting:
        result[WHERE] = [*waiting, *also_waiting]
    if ORIGIN in over:
        result[ORIGIN] = over[ORIGIN]
    elif ORIGIN in base:
        before = base[ORIGIN]
        if "published" in before["changes"] and "published" not in over and not all(map(is_free, _keys(above))):
            over = {**over, "published": None}  # a person's own file had it, for other settings
            result["published"] = None
        result[ORIGIN] = {**before, "changes": merged(before["changes"], over)}
    return result


def merge_layers(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All layers in one, the last on top."""
    result: dict[str, Any] = {}
    for layer in layers:
        result = merged(result, layer)
    return result


def settings_alone(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what stands beside them."""
    return {key: value for key, value in layer.items() if key not in (ORIGIN, WHERE)}


def nested(key: str, value: Any) -> dict[str, Any]:
    """{"update": {"lr": value}} of "update.lr"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    result: dict[str, Any] = value
    return result


def method_names(method: Any) -> list[str] | None:
    """Names of the methods that plain settings set up; None where they do not say."""
    if method is None:
        return []
    if isinstance(method, str):
        return [name for name in method.split("+") if name != "none"]
    items = method if isinstance(method, list | tuple) else [method]
    names = [item.get("name") if isinstance(item, Mapping) else item for item in items]
    return [str(name) for name in names if name != "none"] if all(names) else None


def _keys(settings: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _laid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        before = result.get(key)
        if key in ("method", "update"):
            value, before = _as_mapping(value), _as_mapping(before)
        if key in WHOLE or not (isinstance(before, Mapping) and isinstance(value, Mapping)):
            result[key] = value
        elif value.get("name", before.get("name")) == before.get("name"):
            result[key] = _laid(_kept(before, value), value)
        elif key == "update":
            shared = {name: setting for name, setting in before.items() if name in UpdateConfig.model_fields}
            result[key] = {**_kept(shared, value), **value}
        else:
            result[key] = dict(value)
    return result


def _kept(before: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of the settings before still means something under a new model or optimizer."""
    if "model" in before and value.get("model", before["model"]) != before["model"]:
        return {name: setting for name, setting in before.items() if name not in ABOUT_A_MODEL}
    old = before.get("optimizer", UpdateConfig.model_fields["optimizer"].default)
    new = value.get("optimizer", old)
    if new != old:
        readers = {name: who for update in UPDATES.values() for name, who in update.Config.only_with.items()}
        return {name: setting for name, setting in before.items() if new in readers.get(name, (new,))}
    return before


def _as_mapping(value: Any) -> Any:
    """'kd' as {name: kd}; anything else, 'crd+kd' too, as it is."""
    return {"name": value} if isinstance(value, str) and "+" not in value else value


def _with_rules(
    settings: Mapping[str, Any], rules: Any, known: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """The settings with those rules that hold for what is known, and the rules that still wait to know more."""
    result, waiting = dict(settings), []
    for rule in _checked(rules):
        holds = [_holds(rule[subject], _subject(known, subject)) for subject in SUBJECTS if subject in rule]
        if None in holds:
            waiting.append(rule)
        elif all(holds):
            result = _laid(result, {key: value for key, value in rule.items() if key not in SUBJECTS})
    return result, waiting


def _checked(rules: Any) -> list[Mapping[str, Any]]:
    is_list = rules is None or isinstance(rules, list)
    for rule in (rules or []) if is_list else [rules]:
        if not is_list or not isinstance(rule, Mapping) or not set(SUBJECTS) & set(rule):
            raise UserError(
                f"where: is a list of rules such as {{student: cifar:mobilenetv2, update: {{lr: 0.01}}}}, each for a "
                f"student, a method or both, got {shortened_repr(rules)}"
            )
    return list(rules or [])


def _subject(known: Mapping[str, Any], subject: str) -> list[str] | None:
    """The student's or the methods' names, or None where they are not known yet."""
    if subject == "method":
        return method_names(known["method"]) if "method" in known else None
    student = known.get("student")
    return [str(student["model"])] if isinstance(student, Mapping) and "model" in student else None


def _holds(wanted: Any, names: list[str] | None) -> bool | None:
    wanted = wanted if isinstance(wanted, list) else [wanted]
    return None if names is None else bool(set(wanted) & set(names))
