"""Training steps that one process takes alone or two take together, and how far two outcomes are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.smallest_settings import SMALLEST, TEACHERS, own_networks, settings_of
from helpers.states import flat
from understudy.core.batch import Batch
from understudy.distributed.launch import joined
from understudy.models import Network
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import Recipe, merged
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows
from understudy.runs.component_changes import with_student_form
from understudy.runs.components import Components, open_components
from understudy.training.connector_weights import save_connectors
from understudy.training.trainer import Trainer

NUM_STEPS = 5
BATCH = 8
NUM_TRAIN = 31  # three batches of 8 and one of 7: 3 rows on the first process, 4 on the second; then a second epoch


@dataclass(frozen=True)
class Outcome:
    """What five steps left: tensors by path in the student's state, and the measures of every step by name."""

    state: dict[str, Tensor]
    measures: list[dict[str, float]]


def five_steps(
    method: str,
    update: str,
    dtype: torch.dtype = torch.float64,
    over: Mapping[str, Any] | None = None,
    is_half_labelled: bool = False,
    form: Callable[[Network], Network] | None = None,
) -> Outcome:
    """Five steps of a student of row-wise layers, by as many processes as there are.

    Args:
        method: its smallest settings are taken.
        update: "joint" or "dot".
        dtype: of everything.
        over: laid on the recipe.
        is_half_labelled: whether every other image has no label.
        form: that the student's network is put into.
    """
    with joined() as world, default_dtype(dtype):
        recipe = recipe_of(method, update, over)
        components = open_components(recipe, allow_code=True, say=lambda text: None, world=world)
        if form is not None:
            components = with_student_form(components, form)
        rows = rows_of(recipe)
        check_rows(components, rows)
        trainer = build_trainer(components, rows, 0)
        measures = list(_taken(trainer, components, dtype, is_half_labelled))
        return Outcome(_floats(trainer.students[0].state_dict()), measures)


def first_run(method: str, stage: str, folder: Path) -> dict[str, Any]:
    """What lets a method start from another run, whose connectors are as they were drawn."""
    recipe = recipe_of(method, "joint", {"method": {"stage": stage}})
    with default_dtype(torch.float64):
        components = open_components(recipe, allow_code=True, say=lambda text: None)
        (student,) = build_trainer(components, rows_of(recipe), 1).students
    save_connectors(folder, [weighted.method for weighted in student.methods])
    return {"method": {"stage": "distill", "init_from": str(folder)}}


def recipe_of(method: str, update: str, over: Mapping[str, Any] | None = None) -> Recipe:
    """The smallest recipe of a method, with a student of group norms."""
    data = {"root": "digits", "train_rows": f"0:{NUM_TRAIN}", "val_rows": "1000:1011", "image_size": 8}
    settings: dict[str, Any] = {
        "data": {**data, "batch_size": BATCH, **SMALLEST[method].data},
        "teacher": TEACHERS["cnn"],
        "student": {"model": "helpers.row_wise_networks:resnet8"},
        "method": settings_of(method),
        "update": {"name": update, "lr": 0.01},
        "epochs": 2,
        "device": "cpu",
        **own_networks(method),  # of layer norms
    }
    return Recipe.read(merged(settings, over or {}), what=f"{method} at its smallest")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Networks and connectors are built in this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def distances(one: Outcome, other: Outcome) -> dict[str, float]:
    """How far two outcomes are apart, by name: the largest difference over the largest size of a kind of tensor.

    A kind is a whole network's weights, its momenta, or a connector's tensors: a bias whose gradient is nothing but
    rounding (before a norm) is not measured by itself.
    """
    assert list(one.state) == list(other.state)
    assert [list(step) for step in one.measures] == [list(step) for step in other.measures]
    found = {}
    sizes: dict[str, float] = {}
    for name, tensor in one.state.items():
        kind = name.split("/")[1]
        sizes[kind] = max(sizes.get(kind, 0.0), tensor.abs().max().item())
    for name, tensor in one.state.items():
        size = tensor.abs().max().item()
        if size < 1e-3 * sizes[name.split("/")[1]]:
            size = sizes[name.split("/")[1]]
        found[name] = (tensor - other.state[name]).abs().max().item() / size
    for number, (step, same) in enumerate(zip(one.measures, other.measures, strict=True), start=1):
        for name, value in step.items():
            found[f"{name} of step {number}"] = abs(value - same[name]) / max(abs(value), 1e-3)
    return found


def too_far(one: Outcome, other: Outcome, limit: float) -> dict[str, float]:
    """The distances above the limit, the largest first."""
    far = {name: distance for name, distance in distances(one, other).items() if not distance <= limit}
    return dict(sorted(far.items(), key=lambda item: -item[1])[:8])


def _floats(state: Mapping[str, Any]) -> dict[str, Tensor]:
    leaves = flat(state).items()
    return {name: leaf for name, leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()}


def _taken(
    trainer: Trainer, components: Components, dtype: torch.dtype, is_half_labelled: bool
) -> Iterator[dict[str, float]]:
    loader, name = components.train_loader(0), trainer.students[0].name
    trainer.begin(epochs=2, steps_per_epoch=loader.steps_per_epoch)
    trainer.students[0].train()
    for epoch in (1, 2):
        trainer.epoch, trainer.step_in_epoch = epoch, 0
        for batch in loader.epoch(epoch):
            if trainer.step == NUM_STEPS:
                return
            trainer.take_step(_cast(batch, dtype, is_half_labelled))
            trainer.measures.close_interval()
            trainer.step_in_epoch += 1
            yield trainer.measures.interval[name]


def _cast(batch: Batch, dtype: torch.dtype, is_half_labelled: bool) -> Batch:
    batch = replace(batch, images=batch.images.to(dtype))
    if not is_half_labelled:
        return batch
    assert batch.indices is not None
    return replace(batch, targets=batch.targets.where(batch.indices % 2 == 0, -1))
