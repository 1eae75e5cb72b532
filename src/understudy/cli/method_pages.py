"""What the methods say of themselves: the list, and a page each. docs/methods/ holds the pages."""

from __future__ import annotations

import inspect
import re

from understudy.cli.field_comments import field_comments
from understudy.methods import METHODS, Method, method_named
from understudy.methods.base import MethodConfig
from understudy.utils.text import NARROW_HANG, wrapped

__all__ = ["method_list", "method_page"]


def method_list(*, width: int | None = None) -> str:
    """One line for each method: its name, where it comes from, what it does.

    Args:
        width: columns of a terminal, which a line is broken for and goes on below what it does; None: no line is.
    """
    sources = {
        name: f"{method.paper.venue} {method.paper.year}" if method.paper else "" for name, method in METHODS.items()
    }
    name_columns, source_columns = max(map(len, [*METHODS, "none"])), max(map(len, sources.values()))
    hang = name_columns + source_columns + 4
    breaks = width is not None and hang > width // 2  # no room beside names and sources: below them
    told = {"none": ("", "The student learns alone, from the task's own loss")}
    told |= {name: (sources[name], _first_sentence(method)) for name, method in sorted(METHODS.items())}
    heads = {name: f"{name:<{name_columns}}  {source:<{source_columns}}" for name, (source, _) in told.items()}
    if breaks:
        lines = [f"{heads[name].rstrip()}\n{' ' * NARROW_HANG}{words}" for name, (_, words) in told.items()]
        return wrapped("\n".join(lines), width)
    return wrapped("\n".join(f"{heads[name]}  {words}" for name, (_, words) in told.items()), width, hang=hang)


def method_page(name: str) -> str:
    """A method's documentation, source, defaults, needs and settings, as Markdown that reads well as plain text.

    Raises:
        UserError: no such method.
    """
    if name in ("none", "alone"):
        return "# none\n\nThe student learns alone, from the task's own loss.\n"
    method = method_named(name)
    default = method.default_loss
    warmup = f", warm-up {default.warmup_epochs} epochs" if default.warmup_epochs else ""
    source = f" ({default.source})" if default.source else ""
    rows = {
        "independent": "independent of each other",
        "related": "related: what one contributes depends on the others of its batch",
    }[method.rows]
    parts = [
        f"# {name}",
        _citation(method),
        inspect.getdoc(method) or "",
        f"- Weights: task {default.task:g}, this method {default.distill:g}{warmup}{source}.",
        f"- Needs: {', '.join(sorted(method.needs)).replace('_', ' ') or 'nothing but features'}.",
        f"- Looks at: {_taps(method)}.",
        f"- Rows are {rows}; at least {method.min_classes} classes.",
        "Settings, with their defaults:",
        "\n".join(_settings(method.Config)),
    ]
    texts = [part for part in parts if part]
    return re.sub(r"(\n- [^\n]+)\n(?=\n- )", r"\1", "\n\n".join(texts)) + "\n"


def _first_sentence(method: type[Method]) -> str:
    paragraph = " ".join((inspect.getdoc(method) or "").split("\n\n", 1)[0].split())
    return paragraph.split(". ", 1)[0].rstrip(".")


def _citation(method: type[Method]) -> str:
    paper = method.paper
    if paper is None:
        return ""
    arxiv = f", arXiv {paper.arxiv}" if paper.arxiv else ""
    return f'{paper.authors}, "{paper.title}", {paper.venue} {paper.year}{arxiv}.'


def _taps(method: type[Method]) -> str:
    taps = method.taps
    sides = {"student": taps.student, "teacher": taps.teacher}
    return "; ".join(f"{side} {', '.join(names)}" for side, names in sides.items() if names) or "logits only"


def _settings(config: type[MethodConfig]) -> list[str]:
    """'- `alpha` = 4.0: paper's table 2: 4 to 5', the words being the comment beside the field."""
    words = field_comments(config)
    lines = []
    for name, field in config.model_fields.items():
        default = field.get_default(call_default_factory=True)
        about = f": {words[name]}" if name in words else ""
        lines.append(f"- `{name}` = {default!r}{about}")
    return lines
