"""What a format of exported files is, and how one file is written: whole, checked against torch, or not at all."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from understudy.core.image_size import ImageSize, height_and_width
from understudy.models.export.agreement import boxes_difference, logits_difference, rows_difference
from understudy.models.network import channels_of
from understudy.utils.errors import UserError
from understudy.utils.installed import register
from understudy.utils.text import plural

__all__ = ["FORMATS", "Format", "Runner", "Subject", "Written", "at_rest", "silence", "write"]

CHECKED_BATCHES = (1, 3)  # of noise, none of them the size that a graph is traced with

_WHY = "is there randomness in the network's forward pass?"
_WHY_BOXES = (
    "a student that has learnt little finds many boxes that are equally sure, of which rounding chooses: train it "
    "longer; or is there randomness in its forward pass?"
)

# (B,D,H,W) in [0,1] on the CPU to (B,C) logits, or to a tuple of tensors where a subject has several outputs.
Runner = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Subject:
    """What is written into a file.

    Attributes:
        model: images in [0,1] to logits, as `load_student` gives it; in evaluation mode on the CPU meanwhile.
        image_size: H = W in pixels, or (H, W).
        about: what the file says of it, texts by name; those of structure as JSON.
        calibration: batches of images as in training, which ranges of whole numbers are chosen by.
        takes_any_size: whether images of other sizes are to be taken, too, where the format can.
        outputs: what the model gives, by name.
        finds: whether it gives boxes, labels and scores of one image.
        is_ragged: whether there are as many outputs as are found, which only some formats can hold.
        is_single: whether it takes one image at a time.
        is_unordered: whether what stands in a row of boxes is picked by values, which rounding may swap.
        trials: images that files are held against torch on, beside noise; of one that finds, in place of noise.
    """

    model: nn.Module
    image_size: ImageSize
    about: Mapping[str, str] = field(default_factory=dict)
    calibration: Sequence[Tensor] = ()
    takes_any_size: bool = False
    outputs: tuple[str, ...] = ("logits",)
    finds: bool = False
    is_ragged: bool = False
    is_single: bool = False
    is_unordered: bool = False
    trials: Sequence[Tensor] = ()

    @property
    def example(self) -> Tensor:
        """Noise that graphs are traced with."""
        return self.images(1 if self.is_single else 2)

    def checked_on(self) -> list[Tensor]:
        """Batches that files are held against torch on, other ones than a graph is traced with."""
        if self.is_single:
            return list(self.trials) or [self.images(3)[:1]]
        return [*self.trials, *map(self.images, CHECKED_BATCHES)]

    def timed_on(self, batch_size: int) -> Tensor:
        """Images whose latency is told: how long boxes take depends on what there is to see."""
        return self.trials[0] if self.is_single and self.trials else self.images(batch_size)

    @property
    def channels(self) -> int:
        """D of the images."""
        return channels_of(self.model)

    def images(self, batch_size: int) -> Tensor:
        """(B,D,H,W) of noise in [0,1], always the same."""
        shape = (batch_size, self.channels, *height_and_width(self.image_size))
        return torch.rand(shape, generator=torch.Generator().manual_seed(batch_size))


class Format:
    """Base of every format. A subclass is registered by `class Mine(Format, name="mine")`, the word for `--mine`.

    Attributes:
        title: what runs its files, for people.
        needs: packages that it is written and read by, beside torch.
        pip: what installs them.
        tolerance: largest difference to torch, relative to the largest logit where that is above 1; None: any.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    pip: ClassVar[str] = "pip install 'understudy[export]'"
    tolerance: float | None = 1e-4

    def __init_subclass__(cls, name: str, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        register(FORMATS, name, cls, kind="an export format")
        cls.name = name

    def check_installed(self) -> None:
        """Refuse what lacks its packages.

        Raises:
            UserError: with the command that installs them.
        """
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"export needs {' and '.join(missing)}; install with: {self.pip}")

    def write(self, subject: Subject, file: Path) -> None:
        """Write the file, or what else belongs to it, into the folder of `file`, which holds nothing else."""
        raise NotImplementedError

    def opened(self, file: Path, threads: int) -> Runner:
        """The file as a function, run by so many CPU threads."""
        raise NotImplementedError


FORMATS: dict[str, type[Format]] = {}


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written, and how well it agrees with torch."""

    format: Format
    file: Path
    num_bytes: int
    largest_difference: float  # on noise, relative to the largest logit where that is above 1


def write(subject: Subject, file: str | Path, format: Format) -> Written:
    """Write a file of a format; it appears once it agrees with torch, and replaces one that is there.

    Args:
        subject: left as it is, on its device.
        file: to write (a folder, where the format is one).
        format: of the file, with its settings.

    Raises:
        UserError: packages missing, what the format cannot hold, a file that does not agree, or a disk that is full.
    """
    format.check_installed()
    file = Path(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            at_rest(subject.model),
            TemporaryDirectory(dir=file.parent, prefix=".exporting-") as half_way,
        ):
            written = Path(half_way) / file.name
            format.write(subject, written)
            difference = _checked(subject, format, written, file)
            num_bytes = sum(part.stat().st_size for part in Path(half_way).rglob("*") if part.is_file())
            for part in Path(half_way).iterdir():
                target = file.parent / part.name
                if target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                os.replace(part, target)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from None
    return Written(format, file, num_bytes, difference)


def _checked(subject: Subject, format: Format, written: Path, file: Path) -> float:
    """How far the file is from torch; refused where that is too far."""
    run = format.opened(written, torch.get_num_threads())
    batches = subject.checked_on()
    with torch.no_grad():
        expected = [subject.model(batch) for batch in batches]
    if subject.finds and not any(len(labels) for _, labels, _ in expected):
        raise UserError(
            f"{file}: not written, since the student finds nothing on the {plural(len(batches), 'image')} that it is "
            "held against torch on; train it longer, or name images with objects: --data FOLDER"
        )
    difference = _difference(subject, [run(batch) for batch in batches], expected)
    if format.tolerance is not None and not difference <= format.tolerance:
        raise UserError(
            f"{file}: not written, since {format.title} differs from torch by {difference:.1e} on "
            f"{'images of the data' if subject.trials else 'random images'} (at most {format.tolerance:.0e} is "
            f"accepted); {_WHY_BOXES if subject.finds else _WHY}"
        )
    return difference


def _difference(subject: Subject, found: Sequence[Any], expected: Sequence[Any]) -> float:
    """Of what a file and torch gave of the same batches."""
    side = max(height_and_width(subject.image_size))
    if subject.finds:
        return boxes_difference(found, expected, side)
    if subject.is_unordered:
        return rows_difference(found, expected, side)
    pairs = [
        pair
        for ours, theirs in zip(found, expected, strict=True)
        for pair in ([(ours, theirs)] if isinstance(ours, Tensor) else zip(ours, theirs, strict=True))
    ]
    return max(logits_difference(ours, theirs) for ours, theirs in pairs)


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """In evaluation mode on the CPU; device and every part's mode are put back."""
    modes = {part: part.training for part in model.modules()}
    device = next(model.parameters(), torch.empty(0)).device
    try:
        model.eval().cpu()
        yield
    finally:
        model.to(device)
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def silence() -> Iterator[None]:
    """torch's tracers say pages about what they cannot trace; their error's first line says it as well."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
