"""Memory format of convolutions: told, or the one in which this machine was measured to run a network faster.

What is measured differs from machine to machine and by chance, and results of the two formats differ by rounding. So
`auto` is for those who want the faster one; a run writes its choice down, and goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from understudy.core.config import Config
from understudy.core.image_size import ImageSize, height_and_width
from understudy.core.networks import copied, is_channels_last
from understudy.core.outputs import trial_loss
from understudy.core.precision import Precision, autocast
from understudy.core.taps import TappedModel
from understudy.models import Network, in_format
from understudy.runs.component_changes import with_student_form, with_teacher
from understudy.runs.components import Components
from understudy.runs.kept_choice import kept_choice
from understudy.training.trial_pass import training_problem
from understudy.utils.errors import UserError
from understudy.utils.seeding import seeded

__all__ = ["Choice", "Trial", "choose_memory_format", "faster_format"]

WARMUP, TURNS, MOST_SECONDS = 2, 7, 20.0  # of a trial; a slow network gets fewer turns
LOST = "in which memory format this run began; begin anew, with channels_last: true or false"


class Choice(Config):
    """Which networks of a run are channels_last, and what a pass took: least seconds, contiguous and channels_last."""

    student: bool
    teacher: bool | None  # None: no teacher is run
    seconds: dict[str, tuple[float, float | None]]  # None: the network cannot run in channels_last

    def describe(self) -> str:
        """In words."""
        sides = {"student": self.student, "teacher": self.teacher}
        return "; ".join(
            f"{side} {'channels_last' if sides[side] else 'contiguous'} ({1000 * contiguous:.1f} ms contiguous, "
            f"{'fails in' if channels_last is None else f'{1000 * channels_last:.1f} ms'} channels_last)"
            for side, (contiguous, channels_last) in self.seconds.items()
        )


@dataclass(frozen=True)
class Trial:
    """What a network is tried with.

    Attributes:
        batch_size: B.
        image_size: of the images.
        device: where.
        precision: of the pass.
        trains: whether a pass has a backward part, as a student's has.
        channels: of the images.
    """

    batch_size: int
    image_size: ImageSize
    device: torch.device
    precision: Precision = "float32"
    trains: bool = False
    channels: int = 3


def choose_memory_format(components: Components, file: Path, *, say: Callable[[str], None]) -> Components:
    """The components with networks in the faster format where the recipe says `auto`, else as they are.

    Args:
        components: of the run, on this process's device.
        file: where the run keeps its choice.
        say: is told of it.

    Raises:
        UserError: the file is damaged.
    """
    if components.recipe.channels_last != "auto":
        return _contiguous_where_it_must(components, say) if components.recipe.channels_last else components
    choice = components.world.from_first(lambda: kept_choice(Choice, file, partial(_measured, components), lost=LOST))
    say(f"format   {choice.describe()}")
    settled = with_student_form(components, lambda network: in_format(network, choice.student))
    if components.teacher_network is None or choice.teacher is None:
        return settled
    return with_teacher(settled, in_format(components.teacher_network, choice.teacher))


def faster_format(network: Network, trial: Trial) -> tuple[bool, tuple[float, float | None]]:
    """Whether channels_last is the faster one, and least seconds of a pass in either (contiguous, channels_last).

    The formats take turns. The network itself is not touched, nor the random state. None: it cannot run in
    channels_last, and is not asked to.
    """
    can_be_channels_last = _runs_in_channels_last(_copied(network, trial), trial)
    with seeded(0):
        sides = height_and_width(trial.image_size)
        images = torch.rand(trial.batch_size, trial.channels, *sides, device=trial.device)
        passes = [_pass(in_format(_copied(network, trial), choice), images, trial) for choice in (False, True)]
        if not can_be_channels_last:
            return False, (min(_timed(passes[0], trial.device) for _ in range(WARMUP + 1)), None)
        seconds: tuple[list[float], list[float]] = ([], [])
        began = time.perf_counter()
        for turn in range(WARMUP + TURNS):
            for choice in (0, 1) if turn % 2 else (1, 0):
                seconds[choice].append(_timed(passes[choice], trial.device))
            if turn >= WARMUP and time.perf_counter() - began > MOST_SECONDS:
                break
    contiguous, channels_last = (min(found[WARMUP:]) for found in seconds)
    return channels_last < contiguous, (contiguous, channels_last)


def _contiguous_where_it_must(components: Components, say: Callable[[str], None]) -> Components:
    """The components, networks that fail in channels_last in the contiguous format, which is said."""
    settings = components.recipe.teacher
    trial = Trial(2, components.image_size, components.device, trains=True, channels=components.data.channels)
    if not _runs_in_channels_last(components.student_network, trial, role="student", say=say):
        components = with_student_form(components, lambda network: in_format(network, False))
    if components.teacher_network is not None:
        trains = settings is not None and settings.train_epochs > 0
        trial = replace(trial, image_size=components.teacher_size or components.image_size, trains=trains)
        _runs_in_channels_last(components.teacher_network, trial, role="teacher", say=say)
    return components


def _measured(components: Components) -> Choice:
    recipe = components.recipe
    batch_size = max(recipe.data.batch_size // components.world.size // recipe.accumulate, 2)
    trial = Trial(
        batch_size,
        components.image_size,
        components.device,
        recipe.precision,
        trains=True,
        channels=components.data.channels,
    )
    student, seconds = faster_format(components.student_network, trial)
    if components.teacher_network is None:
        return Choice(student=student, teacher=None, seconds={"student": seconds})
    trial = replace(trial, image_size=components.teacher_size or components.image_size, trains=False)
    teacher, teacher_seconds = faster_format(components.teacher_network, trial)
    return Choice(student=student, teacher=teacher, seconds={"student": seconds, "teacher": teacher_seconds})


def _runs_in_channels_last(
    network: Network, trial: Trial, *, role: str = "", say: Callable[[str], None] = lambda text: None
) -> bool:
    """Whether it does; one that fails there and not in the contiguous format is made contiguous, which is said.

    In evaluation mode, and in training mode where the trial `trains`: some networks take another way then.
    """
    at = next(network.module.parameters(), torch.empty(0)).device
    images = torch.zeros(2, trial.channels, *height_and_width(trial.image_size), device=at)
    tapped = TappedModel(in_format(network, True).module, prepare=network.prepare, name=network.name)
    try:
        tapped.dry_forward(images)
    except UserError:  # who builds on it says more
        return True
    if tapped.is_contiguous_only or (trial.trains and _trains_only_when_contiguous(network, images)):
        say(
            f"format   {role} {network.name} runs contiguous, since it fails in channels_last (as view(B, -1) "
            "of maps does, where flatten(1) does not)"
        )
        return False
    return True


def _trains_only_when_contiguous(network: Network, images: Tensor) -> bool:
    if not is_channels_last(network.module) or training_problem(network.prepared, images) is None:
        return False
    if training_problem(in_format(network, False).prepared, images) is None:
        return True
    in_format(network, True)
    return False


def _copied(network: Network, trial: Trial) -> Network:
    module = copied(network.module, role="network").to(trial.device).train(trial.trains)
    return replace(network, module=module)


def _pass(network: Network, images: Tensor, trial: Trial) -> Callable[[], None]:
    module: nn.Module = network.module

    def run() -> None:
        with torch.set_grad_enabled(trial.trains):
            with autocast(trial.precision, trial.device):
                output = module(images)
            if trial.trains:
                trial_loss(output).backward()  # type: ignore[no-untyped-call]

    return run


def _timed(work: Callable[[], None], device: torch.device) -> float:
    def wait() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began
