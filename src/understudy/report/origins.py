"""What the networks of a run started from, in a sentence: random weights are never a surprise."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.results.schema import Results

__all__ = ["has_random_start", "start_sentence", "style_of_start"]

RANDOM = "random weights"


def start_sentence(results: Results) -> str:
    """'Started from: teacher timm:resnet18 random weights, then trained here for 6 epochs; student ...'; '' if unknown.

    Args:
        results: what results.json holds.
    """
    said = list(_origins(results))
    return f"Started from: {'; '.join(f'{name} {origin}' for name, origin in said)}." if said else ""


def has_random_start(results: Results) -> bool:
    """Whether teacher or student began with random weights."""
    return any(origin.startswith(RANDOM) for _, origin in _origins(results))


def style_of_start(origin: str) -> str:
    """The colour on a terminal of what a network starts from."""
    return "yellow" if RANDOM in origin else "green"


def _origins(results: Results) -> Iterator[tuple[str, str]]:
    teacher, students = results.teacher, {row.student.model: row.student.starts_from for row in results.rows}
    if teacher is not None and teacher.starts_from:
        yield f"teacher {teacher.model}", teacher.starts_from
    for model, origin in students.items():
        if origin:
            yield f"student {model}", origin
