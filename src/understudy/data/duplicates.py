"""Equal images: under two labels in train, or in train and in what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from understudy.data.cache import Cached, digest
from understudy.data.sources.base import EncodedSource, Source, images_in_memory, stored_at
from understudy.data.sources.decoding import BadImageError
from understudy.data.sources.found import SplitName
from understudy.utils.text import plural

__all__ = ["MOST_COMPARED", "duplicate_notes"]

# Files that are not decoded anyway are compared by size, and read where sizes agree. Above this number of images
# (ImageNet: 150 GB, in which most sizes agree) the reading would take longer than a person wants to wait.
MOST_COMPARED = 100_000


def duplicate_notes(parts: Mapping[SplitName, Cached], classes: Sequence[str]) -> list[str]:
    """Sentences with the number of equal images and the first few names; none where there are none.

    Args:
        parts: "train" and others, whose digests count where they were made.
        classes: names, by label.
    """
    keys = _keys({name: part for name, part in parts.items() if not _is_repeated(name, parts)})
    if "train" not in keys:
        return []
    train, groups = parts["train"].source, _groups(keys["train"])
    notes = _relabelled(train, groups, classes)
    measured: tuple[SplitName, ...] = ("val", "test")
    for name in measured:
        if name in keys:
            notes += _leaks(name, parts[name].source, keys[name], train, groups)
    return notes


def _is_repeated(name: SplitName, parts: Mapping[SplitName, Cached]) -> bool:
    """Whether a part is another one once more: val and test are where data.val is "test"."""
    return name == "test" and "val" in parts and parts["val"].source is parts["test"].source


Keys = list[Any]  # per image: what equal images share, None where nothing can be equal to it or nothing is known


def _keys(parts: Mapping[SplitName, Cached]) -> dict[SplitName, Keys]:
    """Keys by part, without the parts whose images cannot be compared."""
    keys: dict[SplitName, Keys] = {}
    unread: dict[SplitName, Source] = {}
    for name, part in parts.items():
        if part.digests is not None and None not in part.digests:
            keys[name] = list(part.digests)
        elif (images := images_in_memory(part.source)) is not None:
            if images.dtype == torch.uint8:
                keys[name] = [digest(image.numpy().tobytes()) for image in images]
        elif isinstance(stored_at(part.source, 0)[0], EncodedSource):
            unread[name] = part.source
    if sum(map(len, unread.values())) <= MOST_COMPARED:
        keys |= _keys_by_size(unread, keys)
    return {name: keys[name] for name in parts if name in keys}


def _keys_by_size(unread: Mapping[SplitName, Source], known: Mapping[SplitName, Keys]) -> dict[SplitName, Keys]:
    """Keys of images that were not read yet: only those whose size another one shares are read now."""
    sizes = {name: [_num_bytes(source, i) for i in range(len(source))] for name, source in unread.items()}
    count: dict[int, int] = {}
    for size in [int.from_bytes(key[:8], "big") for keys in known.values() for key in keys]:
        count[size] = count.get(size, 0) + 1
    for size in [size for of_part in sizes.values() for size in of_part]:
        count[size] = count.get(size, 0) + 1
    return {
        name: [_digest(unread[name], i) if size and count[size] > 1 else None for i, size in enumerate(of_part)]
        for name, of_part in sizes.items()
    }


def _num_bytes(source: Source, i: int) -> int:
    holder, place = stored_at(source, i)
    return holder.num_bytes(place) if isinstance(holder, EncodedSource) else 0


def _digest(source: Source, i: int) -> bytes | None:
    holder, place = stored_at(source, i)
    assert isinstance(holder, EncodedSource)
    try:
        return digest(holder.encoded(place))
    except BadImageError:
        return None


def _groups(keys: Keys) -> dict[bytes, list[int]]:
    groups: dict[bytes, list[int]] = {}
    for i, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(i)
    return groups


def _relabelled(train: Source, groups: Mapping[bytes, list[int]], classes: Sequence[str]) -> list[str]:
    labels = train.labels.tolist()
    found = []
    for members in groups.values():
        labelled = [i for i in members if labels[i] >= 0]
        if len({labels[i] for i in labelled}) > 1:
            found.append(" = ".join(f"{train.name(i)} ({classes[labels[i]]})" for i in labelled))
    if not found:
        return []
    return [f"train holds {plural(len(found), 'image')} under more than one label: {_first(found)}"]


def _leaks(name: str, source: Source, keys: Keys, train: Source, groups: Mapping[bytes, list[int]]) -> list[str]:
    found = [(i, groups[key]) for i, key in enumerate(keys) if key in groups]
    if not found:
        return []
    others = sum(_is_another_label(source.labels[i], train.labels[members]) for i, members in found)
    pairs = [f"{source.name(i)} = {train.name(members[0])}" for i, members in found]
    label = f" ({others} under another label)" if others else ""
    is_are = "is" if len(found) == 1 else "are"
    return [f"{plural(len(found), 'image')} of {name} {is_are} in train as well{label}: {_first(pairs)}"]


def _is_another_label(label: Tensor, others: Tensor) -> bool:
    labelled = others[others >= 0]
    return bool(len(labelled)) and not bool((labelled == label).any())


def _first(texts: Sequence[str], most: int = 3) -> str:
    return "; ".join(texts[:most]) + ("; ..." if len(texts) > most else "")
