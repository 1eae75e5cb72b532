"""What the benchmarks time of understudy itself: a recipe's own parts, trained in blocks of so many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from understudy.core.batch import Batch, PlannedBatch
from understudy.data import TrainLoader
from understudy.data.loaders.base import planned_batches
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import BankConfig, Recipe, recipe_from
from understudy.runs.bank.layout import BankOptions
from understudy.runs.bank.make import make_banks
from understudy.runs.build import build_trainer
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display

__all__ = ["Blocks", "banked", "opened", "recipe", "training_block"]


def recipe(root: str, pair: tuple[str, str], rows: Sequence[str], **settings: Any) -> Recipe:
    """A recipe of the CIFAR networks `pair` (teacher, student), both with random weights, on the images at `root`.

    Of the settings, `batch_size` and a mapping `data` are of the data.
    """
    teacher, student = pair
    batch_size, of_data = settings.pop("batch_size", 64), settings.pop("data", {})
    return recipe_from(
        {
            "data": {"root": root, "augment": "crop_flip", "batch_size": batch_size, **of_data},
            "teacher": {"model": f"cifar:{teacher}", "weights": "none", "allow_weak": True},
            "student": {"model": f"cifar:{student}", "weights": "none"},
            "rows": list(rows),
            "epochs": 240,
            **settings,
        }
    )


def opened(settings: Recipe) -> Components:
    """Data and networks of a recipe."""
    return open_components(settings, allow_code=False, say=print)


def banked(settings: Recipe, folder: Path) -> Recipe:
    """The same on few images, its teacher looked up in a bank of one view of them, which is made in `folder`."""
    few: dict[str, Any] = {"train_rows": "0:4096", "val_rows": "4096:4352"}
    if Path(settings.data.root).is_dir():
        few["root"] = f"{settings.data.root}/train.parquet"
    else:  # digits, of which there are fewer
        few |= {"train_rows": "0:512", "val_rows": "512:768"}
    settings = settings.model_copy(update={"data": settings.data.model_copy(update=few)})
    make_banks(settings, out=folder, options=BankOptions(views=1), display=Display(quiet=True))
    return settings.model_copy(update={"bank": BankConfig(path=str(folder))})


class Blocks:
    """A training loader in pieces of `num_steps` batches, each of which `Trainer.fit` takes for an epoch."""

    def __init__(self, loader: TrainLoader, num_steps: int) -> None:
        self.steps_per_epoch = num_steps
        self.batch_size = loader.batch_size
        self.num_samples = num_steps * loader.batch_size
        self.skipped: tuple[str, ...] = ()
        self._batches = _endless(loader)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The next batches of whichever epoch it is."""
        return (batch.made() for batch in self.planned(epoch, start_step))

    def planned(self, epoch: int, start_step: int = 0) -> Iterator[Batch | PlannedBatch]:
        """The same before they are made."""
        for _ in range(start_step, self.steps_per_epoch):
            yield next(self._batches)


def _endless(loader: TrainLoader) -> Iterator[Batch | PlannedBatch]:
    epoch = 1
    while True:
        yield from planned_batches(loader, epoch)
        epoch += 1


def training_block(
    components: Components, rows: Sequence[str], num_steps: int, *, seed: int = 0, names: Sequence[str] = ()
) -> Callable[[], float]:
    """A block of `Trainer.fit` on these rows, loading and measuring included; it returns the first one's task loss.

    `names` tells rows apart that are the same.
    """
    known = {row.name: row for row in rows_of(components.recipe)}
    names = names or rows
    chosen = [known[row].model_copy(update={"name": name}) for row, name in zip(rows, names, strict=True)]
    trainer = build_trainer(components, chosen, seed)
    loader = Blocks(components.train_loader(seed), num_steps)

    def block() -> float:
        trainer.fit(loader, epochs=trainer.epoch)
        return float(trainer.history[names[0]][-1]["train"]["task_loss"])

    return block
