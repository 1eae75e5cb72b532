"""Readings of a file of weights: which of the tensors in it are those of a network, and under which names.

A file may hold several sets of tensors, nested under keys of any name, each with prefixes that wrappers have put before
the names (DataParallel's "module.", torch.compile's "_orig_mod.", Lightning's "model."). No list says which is meant:
every set, under every prefix that its names suggest, is held against the network.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from understudy.core.classifier import classifier_names
from understudy.models.cifar.published_keys import published_keys
from understudy.utils.text import plural

__all__ = ["Reading", "readings_for", "sets_of"]

_DEEPEST = 6  # keys that lead to a set
_MOST_SETS = 500  # an optimizer's state may hold one for each tensor
_PREFIXES_TRIED = 6  # of a set, those that most of its names suggest
_PARTS = 3  # prefixes that one network's tensors may have together: a backbone, a neck, a head
_AVERAGED = {"ema", "averaged", "average", "avg", "swa"}
_COUNTERS = ("total_ops", "total_params", "n_averaged")  # what thop.profile and AveragedModel leave among the weights
_BATCHES = "num_batches_tracked"  # batch norms have it since PyTorch 0.4.1


@dataclass(frozen=True)
class Reading:
    """One set of tensors in a file, named as a network's own, and how far it fits that network."""

    place: tuple[str, ...]  # keys that lead to the set
    state: Mapping[str, Tensor]  # under the network's names; what it lacks is left out
    prefixes: tuple[str, ...] = ()  # taken away
    added: str = ""  # prefix put before
    others: tuple[str, ...] = ()  # names of tensors beside those under the prefix
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()  # quantised, or without values
    new_head: bool = False  # its classifier is of other classes, or none, and left out
    lacks_head: bool = False  # it is none
    filled: Mapping[str, Tensor] = field(default_factory=dict)  # what the network keeps of its own
    wanted: Mapping[str, Tensor] = field(default_factory=dict)  # the network's own, by name
    heads: frozenset[str] = frozenset()  # names of its classifier's tensors

    @property
    def fits(self) -> bool:
        """Whether every tensor of the network is there in its shape, and none is left over."""
        return not (self.missing or self.unexpected or self.misshapen or self.unusable)

    @property
    def fits_but_for_its_head(self) -> bool:
        """Whether nothing but the classifier is of another shape."""
        return not (self.missing or self.unexpected or self.unusable) and self.heads.issuperset(self.misshapen)

    @property
    def distance(self) -> int:
        """Number of names that do not fit."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen) + len(self.unusable)

    @property
    def is_averaged(self) -> bool:
        """Whether its names say that it is a running average of the weights."""
        words = re.split(r"[._\-]", ".".join([*self.place, *self.prefixes]).lower())
        return not _AVERAGED.isdisjoint(words)

    @property
    def key(self) -> str:
        """What a person writes behind FILE# to have this one."""
        prefix = self.prefixes[0].rstrip(".") if len(self.prefixes) == 1 else ""
        return ".".join([*self.place, *([prefix] if prefix else [])])

    def answers_to(self, key: str) -> bool:
        """Whether a person who wrote FILE#key may mean this one."""
        return key in (self.key, ".".join(self.place), *(prefix.rstrip(".") for prefix in self.prefixes))

    def is_same(self, other: Reading) -> bool:
        """Whether both give the network the same values."""
        return self.state.keys() == other.state.keys() and all(
            value is other.state[key]
            or (value.shape == other.state[key].shape and torch.equal(value, other.state[key]))
            for key, value in self.state.items()
        )

    def in_words(self) -> str:
        """What was done to the file's names; empty where they are the network's own."""
        parts = [".".join(self.place)] if self.place else []
        if self.prefixes:
            named = " and ".join(repr(prefix) for prefix in self.prefixes)
            parts.append(f"prefix{'es' * (len(self.prefixes) > 1)} {named} taken away")
        parts += [f"prefix {self.added!r} put before"] if self.added else []
        if self.others:
            parts.append(f"{plural(len(self.others), 'other tensor')} left out, such as {self.others[0]}")
        parts += ["without a classifier"] if self.lacks_head else []
        return ", ".join(parts)


@dataclass(frozen=True)
class _Wanted:
    """What a network's tensors are called and how large they are."""

    tensors: Mapping[str, Tensor]
    names: Mapping[str, str]  # own name by each name that a file may have for it
    added: str  # the prefix that these names lack
    heads: frozenset[str]  # names of the classifier's tensors
    remade: Mapping[str, Tensor]  # buffers that no state dict keeps


def readings_for(module: nn.Module, content: object, *, new_head: bool) -> Iterator[Reading]:
    """Every reading of what a file holds as tensors of `module`, as the names are before all others.

    Args:
        module: any network.
        content: as `content_of` gives it.
        new_head: a classifier of other classes, or none, is no fault.
    """
    for place, tensors in islice(sets_of(content), _MOST_SETS):
        yield from _readings(place, tensors, module, new_head=new_head)


def sets_of(content: object, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping in a file that holds tensors by name, with the keys that lead to it; the outer ones first."""
    if isinstance(content, list | tuple):
        content = {str(i): item for i, item in enumerate(content) if isinstance(item, Mapping)}
    if not isinstance(content, Mapping) or len(place) > _DEEPEST:
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, item in content.items():
        if isinstance(key, str) and isinstance(item, Mapping | list | tuple):
            yield from sets_of(item, (*place, key))


def _readings(
    place: tuple[str, ...], tensors: Mapping[str, Tensor], module: nn.Module, *, new_head: bool
) -> Iterator[Reading]:
    """Of one set: under its own names, else under each prefix that they suggest."""
    found = []
    for wanted in _wanted(module):
        for prefix in _prefixes(tensors, wanted):
            if wanted.added and prefix.endswith(wanted.added):
                continue  # what would be put before is there
            found.append(_reading(place, tensors, wanted, (prefix,) if prefix else (), new_head=new_head))
            if found[-1].fits and not prefix:
                yield found[-1]  # all its tensors are the network's: no other reading could be meant
                return
    if not any(reading.fits for reading in found):
        found += [
            reading
            for wanted in _wanted(module)
            if (reading := _in_parts(place, tensors, wanted, new_head=new_head)) is not None
        ]
    yield from found


def _wanted(module: nn.Module) -> Iterator[_Wanted]:
    """The network's tensors by its own names, and by those within a wrapper that all of it lies in."""
    tensors = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    remade = {key: value for key, value in module.named_buffers() if key not in tensors}
    heads = frozenset(_classifier_keys(module, tensors))
    names = {key: key for key in tensors} | {theirs: own for own, theirs in published_keys(module).items()}
    added = ""
    yield _Wanted(tensors, names, added, heads, remade)
    while tensors and (first := _shared_first(key.removeprefix(added) for key in tensors)):
        added += first
        yield _Wanted(tensors, {key.removeprefix(added): key for key in tensors}, added, heads, remade)


def _shared_first(keys: Iterator[str]) -> str:
    """The first part of all names, with its dot, where they share one."""
    firsts = {key.partition(".")[0] if "." in key else "" for key in keys}
    return f"{firsts.pop()}." if len(firsts) == 1 and "" not in firsts else ""


def _prefixes(tensors: Mapping[str, Tensor], wanted: _Wanted) -> list[str]:
    votes: Counter[str] = Counter(
        prefix for key in tensors if (prefix := _prefix_of(key, wanted)) is not None and not key.endswith(_COUNTERS)
    )
    return list(dict.fromkeys(["", *(prefix for prefix, _ in votes.most_common(_PREFIXES_TRIED))]))


def _prefix_of(key: str, wanted: _Wanted) -> str | None:
    """What stands before the longest end of a file's name that the network knows."""
    starts = [0, *(found.end() for found in re.finditer(r"\.", key))]
    return next((key[:start] for start in starts if key[start:] in wanted.names), None)


def _reading(
    place: tuple[str, ...],
    tensors: Mapping[str, Tensor],
    wanted: _Wanted,
    prefixes: tuple[str, ...],
    *,
    new_head: bool,
) -> Reading:
    prefix = prefixes[0] if prefixes else ""
    inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    others = tuple(key for key in tensors if not key.startswith(prefix) and not _is_counter(key))
    state = {wanted.names.get(key, key): value for key, value in inside.items()}
    return _held_against(wanted, place, state, prefixes=prefixes, others=others, new_head=new_head)


def _in_parts(
    place: tuple[str, ...], tensors: Mapping[str, Tensor], wanted: _Wanted, *, new_head: bool
) -> Reading | None:
    """The set under several prefixes (mmpretrain's "backbone." and "head."), where that leaves nothing over."""
    prefixes: dict[str, None] = {}
    state: dict[str, Tensor] = {}
    for key, value in tensors.items():
        prefix = _prefix_of(key, wanted)
        if prefix is None:
            if _is_counter(key):
                continue
            return None
        own = wanted.names[key[len(prefix) :]]
        if own in state:
            return None  # two tensors of one name: which is meant cannot be known
        prefixes[prefix], state[own] = None, value
    if not 1 < len(prefixes) <= _PARTS:
        return None
    named = tuple(prefix for prefix in prefixes if prefix)
    return _held_against(wanted, place, state, prefixes=named, others=(), new_head=new_head)


def _held_against(
    wanted: _Wanted,
    place: tuple[str, ...],
    state: dict[str, Tensor],
    *,
    prefixes: tuple[str, ...],
    others: tuple[str, ...],
    new_head: bool,
) -> Reading:
    own = wanted.tensors
    fresh = {key for key in own if key not in state and _is_uncounted(key, state)}
    faults = [key for key in own if key not in fresh and (key not in state or state[key].shape != own[key].shape)]
    replaces_head = new_head and not wanted.heads.isdisjoint(faults)
    if replaces_head:
        fresh |= wanted.heads
    faults = [key for key in faults if key not in fresh]
    kept = {key: state[key] for key in own if key in state and key not in fresh}
    return Reading(
        place,
        kept,
        prefixes=prefixes,
        added=wanted.added,
        others=others,
        missing=tuple(key for key in faults if key not in state),
        unexpected=tuple(key for key, value in state.items() if key not in own and not _is_spare(key, value, wanted)),
        misshapen=tuple(key for key in faults if key in state),
        unusable=tuple(key for key, value in kept.items() if not _has_values(value, own[key])),
        new_head=replaces_head,
        lacks_head=replaces_head and wanted.heads.isdisjoint(state),
        filled={key: own[key] for key in own if key in fresh},
        wanted=own,
        heads=wanted.heads,
    )


def _is_uncounted(key: str, state: Mapping[str, Tensor]) -> bool:
    """Whether it is the number of batches of a norm that is there but for that."""
    return key.endswith(_BATCHES) and f"{key.removesuffix(_BATCHES)}running_var" in state


def _is_spare(key: str, value: Tensor, wanted: _Wanted) -> bool:
    """Whether a tensor that the network does not keep says nothing: a counter, or a buffer that it makes itself."""
    return _is_counter(key) or (key in wanted.remade and wanted.remade[key].shape == value.shape)


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] in _COUNTERS


def _has_values(value: Tensor, own: Tensor) -> bool:
    """Whether copying gives the network these numbers: not from int8, float8, or tensors without storage."""
    if value.is_quantized or value.is_meta or value.layout != torch.strided:
        return False
    if own.is_floating_point():
        return value.is_floating_point() and value.element_size() > 1
    return not value.is_complex() or own.is_complex()


def _classifier_keys(module: nn.Module, wanted: Mapping[str, Tensor]) -> set[str]:
    return {key for key in wanted for path in classifier_names(module) if key.startswith(f"{path}.")}
