"""Who decodes and crops images that are kept as JPEG: told, or whoever was measured to be faster on this machine.

Workers and a GPU give pixels that differ by rounding and by what is drawn, so a run writes down which it was, and goes
on with it; images of a bank are always those of workers unless the recipe says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import torch

from understudy.core.config import Config
from understudy.data import augment_for
from understudy.data.loaders.on_device import augment_problem, device_problem
from understudy.runs.component_changes import with_data_settings
from understudy.runs.components import Components
from understudy.runs.kept_choice import kept_choice
from understudy.utils.errors import UserError

__all__ = ["DecoderChoice", "check_decoder", "choose_decoder"]

CHOICES = ("workers", "gpu")
WARMUP, BATCHES, TURNS = 2, 6, 3  # of a trial
LOST = "who decodes this run's images; begin anew, with data.decode: workers or gpu"


class DecoderChoice(Config):
    """Who decodes in a run, and images a second of either."""

    decode: Literal["workers", "gpu"]
    images_per_second: dict[str, float]


def check_decoder(components: Components) -> None:
    """Refuse `data.decode: gpu` and `data.augment_on: device` where they cannot be.

    Raises:
        UserError: saying why, and the setting to change.
    """
    config, train = components.recipe.data, components.data.train
    if config.decode == "gpu" and (problem := _problem(components)):
        raise UserError(f"data.decode: gpu cannot be: {problem}. Leave it out, and workers decode")
    if config.augment_on == "device" and (
        problem := augment_problem(train, augment_for(config, train), config, components.device)
    ):
        raise UserError(f"data.augment_on: device cannot be: {problem}. Leave it out, and workers augment")


def choose_decoder(components: Components, file: Path, *, say: Callable[[str], None]) -> Components:
    """The components with the faster decoder where the recipe says `auto`, else as they are.

    Args:
        components: of the run, on this process's device.
        file: where the run keeps its choice.
        say: is told of it.

    Raises:
        UserError: the file is damaged.
    """
    if components.recipe.data.decode != "auto":
        return components
    problem = "a bank is of the images that workers make" if components.recipe.bank else _problem(components)
    if problem:
        say(f"decode   auto takes workers: {problem}")
        return with_data_settings(components, {"decode": "workers"})
    choice = components.world.from_first(
        lambda: kept_choice(DecoderChoice, file, partial(_measured, components), lost=LOST)
    )
    rates = ", ".join(f"{who} {rate:,.0f}" for who, rate in choice.images_per_second.items())
    say(f"decode   auto takes {choice.decode}: {rates} images a second")
    return with_data_settings(components, {"decode": choice.decode})


def _problem(components: Components) -> str | None:
    config, train = components.recipe.data, components.data.train
    return device_problem(train, augment_for(config, train), config, components.device)


def _measured(components: Components) -> DecoderChoice:
    """Both take turns, so many batches each."""
    rates = dict.fromkeys(CHOICES, 0.0)
    seed = components.recipe.seeds[0]
    loaders = {who: with_data_settings(components, {"decode": who}).train_loader(seed) for who in CHOICES}
    for turn in range(TURNS):
        for who, loader in loaders.items():
            batches = iter(loader.epoch(turn + 1))
            for _ in islice(batches, WARMUP):
                pass
            _wait(components.device)
            began, images = time.perf_counter(), 0
            for batch in islice(batches, BATCHES):
                images += len(batch.images)
            _wait(components.device)
            taken = time.perf_counter() - began
            rates[who] = max(rates[who], images / taken)
    is_gpu_faster = rates["gpu"] > rates["workers"]
    return DecoderChoice(decode="gpu" if is_gpu_faster else "workers", images_per_second=rates)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
