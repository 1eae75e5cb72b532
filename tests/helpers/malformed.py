"""What a fuzzer puts where something else belongs, and the places of a tree of plain values."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

NAN, INFINITY = float("nan"), float("inf")
HARD = [
    None, True, -1, 0, 10**6, 2**63, -(10**30), 1e308, -1e308, 5e-324, NAN, INFINITY, -INFINITY, "", " ", ".", "..",
    "../../x", "/etc/passwd", "~nobody/x", "a/" * 40, "long" * 2_000, "null\x00byte", "\x1b[2Jgone", "\ud800",
    "\u202eexe", "[red]red[/]", "[/]", "<script>alert(1)</script>", "{{ 7 * 7 }}", "${HOME}", "$(touch x)", "%s%n",
    "os:system", "builtins:eval", "timm:", ":", "2024-01-01", "0x" + "f" * 40, "1:2:3", [], {}, [[]], [None], {"": ""},
    {"name": []}, {"name": {"name": "kd"}}, ["kd", ["kd"]], {1: 2}, {None: None}, {True: [1]},
]  # fmt: skip

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
JUNK = st.sampled_from(HARD) | TREES | st.integers(60, 200).map(lambda depth: nested(depth))


def nested(depth: int) -> list[Any]:
    """Lists within lists."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a tree, but for the root's own."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the tree with another value at a path."""
    changed = copy.deepcopy(tree)
    parent_of(changed, path)[path[-1]] = value
    return changed


def removed(tree: Any, path: tuple[Any, ...]) -> Any:
    """A copy of the tree without the value at a path."""
    changed = copy.deepcopy(tree)
    del parent_of(changed, path)[path[-1]]
    return changed


def renamed(tree: Any, path: tuple[Any, ...], name: Any) -> Any:
    """A copy of the tree in which a value is found under another key; in a list, one place further on."""
    changed = copy.deepcopy(tree)
    parent = parent_of(changed, path)
    value = parent.pop(path[-1])
    if isinstance(parent, dict):
        parent[name if isinstance(name, str | int | None) else str(name)] = value
    else:
        parent.append(value)
    return changed


def parent_of(tree: Any, path: tuple[Any, ...]) -> Any:
    """The mapping or list that holds the value at a path."""
    for key in path[:-1]:
        tree = tree[key]
    return tree


@st.composite
def mutants(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one to three values replaced, removed or renamed."""
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(tree))
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        kind = draw(st.sampled_from(["replaced", "replaced", "removed", "renamed"]))
        if kind == "replaced":
            tree = replaced(tree, path, draw(JUNK))
        elif kind == "removed":
            tree = removed(tree, path)
        else:
            tree = renamed(tree, path, draw(st.text(max_size=8) | st.integers()))
    return tree
