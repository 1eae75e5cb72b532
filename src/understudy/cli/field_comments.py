"""The comments beside the fields of a class: what a person is told of each."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from functools import cache

__all__ = ["field_comments"]


@cache
def field_comments(kind: type) -> dict[str, str]:
    """The comment beside each field of a class and of those it inherits from, by the name of the field."""
    words: dict[str, str] = {}
    for owner in reversed([base for base in kind.__mro__ if base.__module__.startswith("understudy.")]):
        words |= _own_comments(textwrap.dedent(inspect.getsource(owner)))
    return words


def _own_comments(source: str) -> dict[str, str]:
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (owner,) = ast.parse(source).body
    assert isinstance(owner, ast.ClassDef)
    fields = [node for node in owner.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    found = {node: [comments[line] for line in _lines(node) if line in comments] for node in fields}
    return {node.target.id: said[0] for node, said in found.items() if said and isinstance(node.target, ast.Name)}


def _lines(node: ast.AnnAssign) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)
