"""The first lines of a run in words: its data and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from understudy.core.image_size import size_text
from understudy.methods.combination import weighted
from understudy.models.cost import count_parameters
from understudy.recipes.comparison import Variant
from understudy.recipes.schema import Recipe
from understudy.report import compact, style_of_start
from understudy.report.licences import licence_notes
from understudy.runs.component_changes import teachers_apart
from understudy.runs.components import Components
from understudy.utils.text import plural

__all__ = ["describe_data", "describe_rows", "describe_starts"]


def describe_data(components: Components) -> str:
    """What was found, for people."""
    data = components.data
    test = "" if data.test is None else f", test {len(data.test):,}"
    unlabelled = f" ({data.num_unlabelled:,} without labels)" if data.num_unlabelled else ""
    return (
        f"data     {data.name}: {len(data.classes)} classes, train {len(data.train):,}{unlabelled}, "
        f"val {len(data.val):,} ({data.val_origin}){test}, {size_text(components.image_size)} px"
        + (
            f" (teacher {size_text(components.teacher_size)} px)"
            if components.teacher_size and components.teacher_looks
            else ""
        )
    )


def describe_starts(components: Components) -> list[tuple[str, str]]:
    """What teacher and student start from, and under which licence, for people: a line each, and its colour."""
    recipe, lines = components.recipe, []
    if recipe.teacher is not None and components.teacher is not None:
        epochs = recipe.teacher.train_epochs
        then = f", to be trained here first for {plural(epochs, 'epoch')}" if epochs else ""
        for head, alone in teachers_apart(components).items():
            network = alone.teacher_network  # whose facts nobody may count before it is known to fit the images
            assert alone.teacher is not None
            assert alone.recipe.teacher is not None
            origin = alone.teacher.origin if network is None else network.starts_from
            role = "teacher" if head is None else f"teacher of {head}"
            lines.append((role, alone.recipe.teacher.model, origin, then))
    lines.append(("student", recipe.student.model, components.student_network.starts_from, ""))
    starts = [
        (f"start    {role} {model}: {origin}{then}", style_of_start(origin)) for role, model, origin, then in lines
    ]
    return [*starts, *((f"licence  {note}", "") for note in licence_notes(model for _, model, _, _ in lines))]


def describe_rows(components: Components, rows: Sequence[Variant]) -> str:
    """What is going to be trained, for people."""
    seeds = components.recipe.seeds
    count = f"{plural(len(rows), 'row')} x {plural(len(seeds), 'seed')}"
    network, size = components.student_network, compact(count_parameters(components.student_network.module))
    lines = [
        f"student  {components.recipe.student.model}   {size} parameters   {network.starts_from}   "
        f"{count}, {_length(components.recipe)}"
    ]
    for row in rows:
        methods = ", ".join(_with_weight(config) for config in row.method) or "nothing distilled"
        lines.append(
            f"  {row.name:<14} {methods}; task {row.task_weight:g}; {row.update.in_words()}{_source(row, rows)}"
        )
    return "\n".join(lines)


def _length(recipe: Recipe) -> str:
    """'30 epochs', or '40,000 steps in 50 parts'."""
    if recipe.steps is None:
        return plural(recipe.epochs, "epoch")
    return f"{plural(recipe.steps, 'step')} in {plural(recipe.epochs, 'part')}"


def _source(row: Variant, rows: Sequence[Variant]) -> str:
    """Where a row's settings come from, where that is not the one recipe."""
    return f"; settings of {row.settings_from}" if len({each.settings_from for each in rows}) > 1 else ""


def _with_weight(config: Any) -> str:
    weight, _ = weighted(config)
    paper = config.method.paper
    source = f" ({paper.authors.split(',')[0]} {paper.year})" if paper else ""
    return f"{config.method.name}{source}, weight {weight:g}"
