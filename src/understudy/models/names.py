"""Names of models: SOURCE:NAME, and what to say when there is no such name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import timm
import torchvision

from understudy.models.detectors.blueprints import FAMILIES, torchvision_detectors
from understudy.models.detectors.yolo_blueprint import is_file_of_yolo
from understudy.models.segmentation.segmenter import HEADS
from understudy.utils.errors import UserError
from understudy.utils.text import listed

__all__ = ["FORMS", "NAMED_FORMS", "NAMED_SOURCES", "OWN_PREFIXES", "known_names", "may_run_code", "split_name"]

_CLASSIFIERS = ("timm", "torchvision", "cifar", "understudy", "hf")
NAMED_SOURCES = (*_CLASSIFIERS, *HEADS, *FAMILIES, "ultralytics")  # none of which runs code that is not installed
NAMED_FORMS = ", ".join(f"{source}:NAME" for source in NAMED_SOURCES)
FORMS = f"{NAMED_FORMS}, FILE.py:Class or module.path:factory"

OWN_PREFIXES = {"cifar": "cifar_", "understudy": "understudy_"}  # of the networks of this package in timm's registry


def split_name(name: str) -> tuple[str, str]:
    """(source, rest) of a model's name; the source is one of NAMED_SOURCES or a module path.

    A tag of timm's (resnet50.a1_in1k) stays in the rest.

    Raises:
        UserError: no source in front, or the source has no such model; the nearest names are in the text.
    """
    source, colon, rest = name.partition(":")
    if source.endswith(".py") and not rest:
        raise UserError(f"model {name!r} names a file; say which network of it is meant, too: {source}:CLASS")
    if not colon or not source or not rest:
        raise UserError(f"model {name!r} does not say where it comes from; write {FORMS}{_meant(name.strip(':'))}")
    known = known_names(source)
    if known and rest.partition(".")[0] not in known:
        raise UserError(f"{source} has no model {rest!r}; {_nearest_or_count(rest, known, source)}")
    if source == "timm" and "." in rest:
        tagged = timm.list_models(f"{rest.partition('.')[0]}.*", include_tags=True)
        if rest not in tagged:
            raise UserError(f"timm has no weights named {rest!r}; there are: {', '.join(tagged) or 'none'}")
    return source, rest


def may_run_code(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether building a model runs code that is not of an installed library: a factory's, or that of a pickle."""
    source, _, rest = name.partition(":")
    return source not in NAMED_SOURCES or (source == "ultralytics" and "cfg" not in kwargs and is_file_of_yolo(rest))


def known_names(source: str) -> list[str]:
    """All names of timm (backbones of dense networks are its, too), torchvision or this package; none otherwise."""
    if source == "timm" or source in (*HEADS, *FAMILIES):
        return [str(name) for name in timm.list_models()]
    if source == "torchvision":
        modules = (torchvision.models, torchvision.models.segmentation)
        names = [str(name) for module in modules for name in torchvision.models.list_models(module=module)]
        return [*names, *torchvision_detectors()]
    if source in OWN_PREFIXES:
        prefix = OWN_PREFIXES[source]
        return [name.removeprefix(prefix) for name in timm.list_models(f"{prefix}*")]
    return []


def _nearest_or_count(name: str, known: list[str], source: str) -> str:
    close = _close(name, known)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = listed(known, 20)
    return f"the {len(known)} of {source} are: {shown}"


def _meant(name: str) -> str:
    """What a name without its source may have meant: the same name where there is one, else near ones."""
    if "/" in name:  # OWNER/NAME on the hub, or a folder
        return f"; did you mean hf:{name}?"
    names = {source: known_names(source) for source in ("timm", "torchvision", *OWN_PREFIXES)}
    equal = [f"{source}:{name}" for source, known in names.items() if name.partition(".")[0] in known]
    near = [f"{source}:{close}" for source, known in names.items() for close in _close(name, known, most=1)]
    meant = equal or near
    return f"; did you mean {' or '.join(meant)}?" if meant else ""


def _close(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=most, cutoff=0.6)
