"""Names of taps: what can be tapped in a network, and what to say of a name that it does not have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from understudy.core.attention import ATTENTION, attention_path
from understudy.core.cam import CAM
from understudy.core.classifier import classifier_name, is_candidate
from understudy.core.stages import stages_of
from understudy.utils.errors import UserError, nearest
from understudy.utils.text import listed

__all__ = ["check_taps", "expanded", "output_name", "resolved", "shown_names", "submodule", "tap_names"]

_OUTPUT = "output."  # and the name of one of the tensors that the network gives


def output_name(module: nn.Module, tap: str) -> str | None:
    """The output that "output.NAME" means; None for a tap inside the network, such as a module of that path."""
    is_output = tap.startswith(_OUTPUT) and len(tap) > len(_OUTPUT) and submodule(module, tap.partition(":")[0]) is None
    return tap.removeprefix(_OUTPUT) if is_output else None


def check_taps(module: nn.Module, taps: Iterable[str], *, name: str) -> None:
    """Raise the UserError that tapping would, and change nothing."""
    for _ in expanded(module, taps, name):
        pass


def tap_names(module: nn.Module) -> list[str]:
    """Everything that can be tapped by name, the short names first."""
    short = ["embedding"] if _may_have_embedding(module) else []
    for group in ("stages", "preact_stages"):
        short += [f"{group}.{i}" for i in range(len(_stage_paths(module, group)))]
    short += [ATTENTION] if attention_path(module) else []
    return short + [path for path, _ in module.named_modules() if path]


def _may_have_embedding(module: nn.Module) -> bool:
    """Whether there is a layer that may be the classifier; which one is, a pass shows."""
    return classifier_name(module) is not None or any(is_candidate(child) for child in module.modules())


def expanded(module: nn.Module, taps: Iterable[str], name: str) -> Iterator[str]:
    """The taps, "stages" and "preact_stages" as all of them.

    Raises:
        UserError: the network does not have one; the text has the nearest name and the list.
    """
    for tap in taps:
        if tap in ("stages", "preact_stages"):
            paths = _stage_paths(module, tap)
            if not paths:
                why = _why_no_preactivations(module) if tap == "preact_stages" else " (timm's feature_info)"
                offered = shown_names(sorted(tap_names(module), key=lambda path: path.count(".")))  # outer ones first
                raise UserError(
                    f"{name} does not say where its {tap} are{why}; name modules of both networks instead: {offered}"
                )
            absent = [path for path in paths if submodule(module, path.partition(":")[0]) is None]
            if absent:
                there = [path for path, _ in module.named_modules() if path]
                raise UserError(
                    f"{name} says that its {tap} are {shown_names(paths, 4)} (timm's feature_info), but it has no "
                    f"{absent[0]!r}; name modules instead: {shown_names(there)}"
                )
            yield from (f"{tap}.{i}" for i in range(len(paths)))
        elif tap == ATTENTION and submodule(module, tap) is None:
            if attention_path(module) is None:
                raise UserError(
                    f"{name} has no layer that gives queries, keys and values of whole images, as timm's vision "
                    "transformers have (vit_*, deit_*, ...); take one of these, or a method on features or logits"
                )
            yield tap
        elif tap == CAM and submodule(module, tap) is None:
            yield tap  # a pass shows whether there are any
        elif output_name(module, tap) is not None:
            yield tap  # a pass shows whether there is one
        else:
            if tap == "embedding" and _may_have_embedding(module):
                yield tap
                continue
            path, _, side = resolved(module, tap).partition(":")
            if side not in ("", "input", "tokens"):
                raise UserError(
                    f"{name}: a tap is a module's output, 'path', its input, 'path:input', or the mean of all its "
                    f"tokens, 'path:tokens'; got {tap!r}"
                )
            if submodule(module, path) is None:
                known = tap_names(module)
                close = nearest(path, known)
                hint = f"did you mean {close}? " if close else ""
                raise UserError(f"{name} has nothing to tap at {tap!r}; {hint}it offers: {shown_names(known)}")
            yield tap


def resolved(module: nn.Module, tap: str) -> str:
    """The module path (with ':input' where that side is meant) behind a short name: a stage, attention, its own."""
    aliases = getattr(module, "tap_aliases", None)
    if isinstance(aliases, Mapping) and tap in aliases:
        return str(aliases[tap])
    if tap == ATTENTION and submodule(module, tap) is None:
        return attention_path(module) or tap
    group, _, number = tap.partition(".")
    if group in ("stages", "preact_stages") and number.isdigit():
        paths = _stage_paths(module, group)
        if int(number) < len(paths):
            return paths[int(number)]
    return tap


def _stage_paths(module: nn.Module, group: str) -> list[str]:
    stages = stages_of(module)
    return [stage.output for stage in stages] if group == "stages" else [s.preact for s in stages if s.preact]


def _why_no_preactivations(module: nn.Module) -> str:
    outputs = [stage.output for stage in stages_of(module)]
    return f": no activation is known to end its stages ({shown_names(outputs, 4)})" if outputs else " (nor its stages)"


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The part of a network at a path; None where there is none."""
    try:
        return module.get_submodule(path) if path else None
    except AttributeError:
        return None


def shown_names(names: list[str], most: int = 24) -> str:
    """The first names of a list, and how many there are where that is not all."""
    return listed(names, most) + (f" ({len(names)} in all)" if len(names) > most else "")
