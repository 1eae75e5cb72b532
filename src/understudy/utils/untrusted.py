"""Text that others wrote, read so that nothing in it runs, hangs or hides: bounded files, plain YAML, plain JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from understudy.utils.errors import UserError, shortened_repr

__all__ = ["given_path", "lines_of", "plain_json", "plain_yaml", "shown", "text_of", "visible"]

MAX_DEPTH = 40  # a resolved recipe has 5 levels, results.json 6; Python's recursion ends near 1,000
MAX_INTEGER = 2**63 - 1  # what tensors and arrays can hold
MAX_YAML_CHARACTERS = 200_000  # shipped recipes have below 1,000; PyYAML reads 250,000 a second on one core
MAX_LINE_BYTES = 1_000_000

# What a terminal or a browser obeys or hides instead of showing it: control characters but for tab and newline, halves
# of surrogate pairs, marks that turn the direction of reading, invisible tags.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]")
_NO_PLAIN_TAGS = ("timestamp", "merge", "value")  # dates stay text, and << and = are keys like any other


def visible(text: str) -> str:
    r"""The text with what a terminal would obey or hide written out: a class called "\x1b[2J" clears no screen."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(value: Any) -> Any:
    """Plain values with every string, and every key, made visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key) if isinstance(key, str) else key: shown(item) for key, item in value.items()}
    return [shown(item) for item in value] if isinstance(value, list) else value


def given_path(path: str | Path, *, what: str) -> Path:
    """The path that a recipe or a person names, whether something is there or not; ~ is the home folder.

    Raises:
        UserError: no system has such a path: a name that is too long, a NUL byte, the home of nobody.
    """
    try:
        found = Path(path).expanduser()
        found.lstat()
    except FileNotFoundError:
        return found
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, NotADirectoryError):
            return found
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{what} {shortened_repr(str(path))}: cannot be a path here ({reason})") from None
    return found


def text_of(file: Path, *, most_bytes: int) -> str:
    """The text of a file of bounded size, without a mark of its byte order; what is no UTF-8 becomes a question mark.

    Raises:
        UserError: it is no plain file (a pipe never ends), too large, or not readable.
    """
    try:
        if not file.is_file():
            raise UserError(f"{file}: is no file")
        with file.open("rb") as stream:
            content = stream.read(most_bytes + 1)  # what a link to a device says of its size means nothing
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: cannot be read ({error})") from None
    if len(content) > most_bytes:
        raise UserError(f"{file}: is larger than {most_bytes:,} bytes, the most that is read")
    return content.decode("utf-8-sig", errors="replace")


def lines_of(file: Path) -> Iterator[str]:
    """The lines of a file, read one by one; one that is too long to be ours comes as an unreadable "?"."""
    with file.open("rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            if len(line) <= MAX_LINE_BYTES:
                yield line.decode("utf-8", errors="replace")
                continue
            yield "?"
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)


def plain_json(text: str) -> Any:
    """The values of a JSON text; null for numbers that JSON does not have.

    Raises:
        ValueError: no JSON, nested too deeply, or an integer that no tensor holds.
    """
    try:
        return _plain(json.loads(text))
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None


def plain_yaml(text: str, *, what: str) -> Any:
    """The values of a YAML text: mappings, lists, strings, numbers, booleans and null.

    Tags, which make objects, and aliases, which make a kilobyte a gigabyte ("billion laughs"), are refused.

    Args:
        text: to read.
        what: begins the message of an error.

    Raises:
        UserError: no YAML, or not plain; too long, too deep, control characters, an integer that no tensor holds.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise UserError(f"{what} has {len(text):,} characters; at most {MAX_YAML_CHARACTERS:,} are read")
    try:
        value = yaml.load(text, Loader=_PlainLoader)
        _refuse_hidden(value)
        return _plain(value, keeps_infinite=True)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{what} is no YAML: {visible(' '.join(str(error).split()))}") from None


class _PlainLoader(yaml.SafeLoader):
    """Builds no objects, follows no aliases, ends before Python's recursion does."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(_NO_PLAIN_TAGS)]
            for first, resolvers in self.yaml_implicit_resolvers.items()
        }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node, where it is a plain one."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        problem = self._problem(event)
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """The tag of a node; rows such as 16:48 are text, where YAML 1.1 has numbers to the base of 60."""
        if kind is yaml.ScalarNode and ":" in value and implicit[0]:
            return "tag:yaml.org,2002:str"
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping; a key that YAML 1.1 takes for a truth, such as `on`, is that word."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)

    def _problem(self, event: Any) -> str | None:
        if isinstance(event, yaml.AliasEvent):
            return "aliases (*name) are not read; write the value out, or share it by extends"
        if event.tag is not None:
            return "tags (!name) are not read; leave it out"
        return f"it is nested more than {MAX_DEPTH} deep" if self.depth >= MAX_DEPTH else None


def _plain(value: Any, *, keeps_infinite: bool = False, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError("an integer has more than 18 digits")
    if isinstance(value, float) and not math.isfinite(value):
        return value if keeps_infinite else None  # a recipe's are refused with their key path
    if isinstance(value, dict):
        return {key: _plain(item, keeps_infinite=keeps_infinite, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, keeps_infinite=keeps_infinite, depth=depth + 1) for item in value]
    return value


def _refuse_hidden(value: Any) -> None:
    if isinstance(value, str) and _HIDDEN.search(value):
        raise ValueError(f"{shortened_repr(value)} holds characters that cannot be seen; leave them out")
    for item in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_hidden(item)
