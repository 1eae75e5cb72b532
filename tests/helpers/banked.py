"""A tiny recipe, its bank, and what a step from either teacher gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.engine import tiny_recipe
from understudy.models import create_model
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import Recipe
from understudy.runs.bank.layout import BankOptions
from understudy.runs.bank.make import make_banks
from understudy.runs.build import build_trainer
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display
from understudy.teachers.bank.store import BankFolder
from understudy.training.trainer import Trainer
from understudy.utils.lock import LOCK_FILE

ONE_SEED = {"rows": [], "seeds": [0], "epochs": 1}


def small_recipe(over: Mapping[str, Any] | None = None) -> Recipe:
    """One seed, one epoch, 80 digits in batches of 32, KD, with these settings laid on it."""
    return tiny_recipe({**ONE_SEED, "method": {"name": "kd"}, **(over or {})})


def make(recipe: Recipe, out: Path, *, display: Display | None = None, **options: Any) -> list[BankFolder]:
    """The banks of a recipe: float32 and two views unless told otherwise."""
    chosen = BankOptions(**{"views": 2, "dtype": "float32", **options})
    return make_banks(recipe, out=out, options=chosen, display=display or Display(quiet=True))


def with_bank(recipe: Recipe, out: Path, **over: Any) -> Recipe:
    """The same recipe, its teacher looked up, with these settings laid on it."""
    return Recipe.read({**recipe.as_dict(), "bank": {"path": str(out)}, **over}, what="the banked recipe")


def teacher_file(file: Path, *, seed: int = 5) -> Path:
    """Weights of the teacher of `small_recipe`, drawn from a seed."""
    torch.manual_seed(seed)
    network = create_model("cifar:resnet8", num_classes=10, weights="none", kwargs={"width": 0.5})
    torch.save(network.module.state_dict(), file)
    return file


def files_of(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by path; not the file that says who is writing there."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != LOCK_FILE
    }


def opened(recipe: Recipe) -> tuple[Components, Trainer]:
    """Parts and trainer of the recipe's first seed."""
    components = open_components(recipe, allow_code=False, say=lambda text: None)
    return components, build_trainer(components, rows_of(recipe), recipe.seeds[0])


def losses_of(recipe: Recipe, steps: int) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Gradients of the first step by parameter, and what was measured in each of the first steps."""
    torch.manual_seed(0)
    components, trainer = opened(recipe)
    student, loader = trainer.students[0], components.train_loader(recipe.seeds[0])
    gradients: dict[str, Tensor] = {}
    named = [*student.model.module.named_parameters(), *student.connectors.named_parameters()]

    def keeper(name: str) -> Any:
        def keep(gradient: Tensor) -> None:
            gradients[name] = gradients.get(name, 0) + gradient  # some are reached by two losses

        return keep

    hooks = [parameter.register_hook(keeper(name)) for name, parameter in named if parameter.requires_grad]
    trainer.begin(epochs=recipe.epochs, steps_per_epoch=loader.steps_per_epoch)
    trainer.log_every = 1
    measured: list[dict[str, float]] = []
    student.train()
    while len(measured) < steps:
        for batch in loader.epoch(trainer.epoch):
            trainer.take_step(batch)
            trainer.step_in_epoch += 1
            trainer.measures.close_interval()
            measured.append(trainer.measures.interval[student.name])
            for hook in hooks:
                hook.remove()
            if len(measured) == steps:
                break
        trainer.epoch, trainer.step_in_epoch = trainer.epoch + 1, 0
    return gradients, measured


def furthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest max|a - b| / max|b| of two sets of tensors of the same names."""
    assert one.keys() == other.keys()
    return max(
        float((one[name] - other[name]).abs().max() / other[name].abs().max().clamp_min(1e-12)) for name in other
    )
