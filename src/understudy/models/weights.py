"""Weights from files: the reading that fits a network is loaded into it, or the file is refused by key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from understudy.core.networks import grow_observers_
from understudy.models.weight_files import MAX_CONFIG_BYTES, content_of, split_weights, weights_file
from understudy.models.weight_layouts import Reading, readings_for, sets_of
from understudy.utils.errors import UserError, shortened_repr
from understudy.utils.text import listed
from understudy.utils.untrusted import plain_json, text_of

__all__ = [
    "MisfitError",
    "classes_in",
    "folder_normalisation",
    "load_weights",
    "read_config",
    "read_state_dict",
]

_NO_STATE_DICT = (
    "no state dict in it (tensors by name, plain or nested under any key); save one with "
    "torch.save(model.state_dict(), FILE)"
)


class MisfitError(UserError):
    """Weights that fit a network under no reading; keeps the one that comes nearest."""

    def __init__(self, begins: str, reading: Reading) -> None:
        super().__init__(begins + _misfit(reading))
        self.reading = reading


def folder_normalisation(
    path: str | Path,
) -> tuple[Sequence[float] | None, Sequence[float] | None] | None:
    """(mean, std) that a model folder's config.json states for its weights; None where it states none."""
    file = weights_file(path)
    config = read_config(file.parent) if file.name.startswith(("model.safetensors", "pytorch_model.bin")) else {}
    stated = config.get("understudy") or config.get("pretrained_cfg") or {}
    if not isinstance(stated, dict) or not {"mean", "std"} <= set(stated):
        return None
    for key in ("mean", "std"):
        value = stated[key]
        if value is not None and not (
            isinstance(value, list) and len(value) == 3 and all(isinstance(part, int | float) for part in value)
        ):
            raise UserError(f"{file.parent / 'config.json'}: {key} must be three numbers, got {shortened_repr(value)}")
    return stated["mean"], stated["std"]


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json, in timm's format; empty where there is none.

    Raises:
        UserError: it is no mapping in JSON.
    """
    file = folder / "config.json"
    if not file.is_file():
        return {}
    text = text_of(file, most_bytes=MAX_CONFIG_BYTES)
    try:
        read = plain_json(text)
    except ValueError as error:
        raise UserError(f"{file}: not readable as JSON ({error}); was the file cut short?") from None
    if not isinstance(read, dict):
        raise UserError(f"{file}: must hold a mapping, got {type(read).__name__}; is it a model's config.json?")
    return read


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a file, without running what it may contain, and without a network to compare with.

    Of several sets the averaged one, else the first ("FILE#KEY" names another); the "module." of DataParallel is
    dropped where all names have it. `load_weights` asks the network instead.

    Raises:
        UserError: no such file, a damaged one, one that would run code, or one without a state dict.
    """
    file, key = split_weights(path)
    found = [Reading(place, tensors) for place, tensors in sets_of(content_of(file))]
    chosen = [reading for reading in found if key is None or reading.answers_to(key)]
    if not chosen:
        raise UserError(f"weights {file!r}: {_no_such_key(key, found) if found and key else _NO_STATE_DICT}")
    largest = max(len(reading.state) for reading in chosen)
    whole = [reading for reading in chosen if 2 * len(reading.state) > largest]
    state = next((reading for reading in whole if reading.is_averaged), whole[0]).state
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def load_weights(module: nn.Module, path: str | Path, *, name: str, new_head: bool = False) -> str:
    """Load a file's weights into `module`; every key must be there in the same shape.

    The file may hold several sets of tensors, under any keys and prefixes: the one that fits the network is taken, its
    averaged weights where there are such (as timm takes them). "FILE#KEY" names another, by the key that leads to it
    or by its prefix. A cifar network also takes the keys that the field's published checkpoints have for it. Batch
    norms that do not count their batches, and what thop.profile leaves, are no fault. Half precision becomes float32.

    Args:
        module: changed in place.
        path: a file (.safetensors, .pt, .pth, ...), a model folder or a run's; "FILE#KEY" for one of several sets.
        name: what error messages call the model.
        new_head: a classifier for another number of classes, or none, leaves the network its fresh one; the rest must
            fit.

    Returns:
        How the file was read, in words; empty where its names are the network's own.

    Raises:
        UserError: another architecture (names up to three keys of each kind, with their counts), or several sets that
            fit and of which none is an average.
    """
    file, key = split_weights(path)
    content = content_of(file)
    for _, tensors in sets_of(content):
        grow_observers_(module, tensors)
    found = list(readings_for(module, content, new_head=new_head))
    if not found:
        raise UserError(f"weights {file!r}: {_NO_STATE_DICT}")
    meant = found if key is None else [reading for reading in found if reading.answers_to(key)]
    if not meant:
        raise UserError(f"weights {file!r}: {_no_such_key(key, found)}")
    fitting = [reading for reading in meant if reading.fits]
    if not fitting:
        raise MisfitError(f"weights {str(path)!r} do not fit {name}: ", min(meant, key=_nearness))
    reading = _chosen(fitting, file)
    module.load_state_dict({**reading.filled, **reading.state}, strict=False)
    said = [reading.in_words(), *(_beside(reading, fitting, found, Path(file).name) if key is None else ())]
    return "; ".join(filter(None, said))


def classes_in(module: nn.Module, path: str | Path) -> int | None:
    """Classes that a file's weights are for, of a network that is built for any number; None where they do not fit."""
    file, key = split_weights(path)
    for reading in readings_for(module, content_of(file), new_head=False):
        sizes = [len(reading.state[name]) for name in sorted(reading.heads) if name in reading.state]
        if sizes and (key is None or reading.answers_to(key)) and reading.fits_but_for_its_head:
            return sizes[0]
    return None


def _chosen(fitting: Sequence[Reading], file: str) -> Reading:
    """The only one that fits, else the averaged one."""
    whole = [reading for reading in fitting if not reading.new_head] or fitting
    differing: list[Reading] = []
    for reading in whole:
        if not any(reading.is_same(other) for other in differing):
            differing.append(reading)
    averaged = [reading for reading in differing if reading.is_averaged]
    if len(differing) > 1 and len(averaged) != 1:
        listed = " or ".join(f"{file}#{reading.key}" for reading in differing)
        raise UserError(f"weights {file!r}: {len(differing)} sets of tensors in it fit; say which: {listed}")
    return averaged[0] if averaged else differing[0]


def _beside(chosen: Reading, fitting: Sequence[Reading], found: Sequence[Reading], file: str) -> list[str]:
    """What else the file holds that a person may have meant."""
    others = [reading for reading in fitting if not reading.is_same(chosen) and reading.new_head == chosen.new_head]
    said = [f"{' and '.join(f'{file}#{reading.key}' for reading in others)} would fit, too"] if others else []
    nearly = [reading for reading in found if reading.is_averaged and not reading.fits and reading.state]
    if nearly and not chosen.is_averaged:
        nearest_one = min(nearly, key=_nearness)
        lacks = len(nearest_one.missing) or nearest_one.distance
        said.append(f"the averaged weights under {nearest_one.key} do not fit ({lacks} tensors)")
    return said


def _nearness(reading: Reading) -> tuple[int, int]:
    return reading.distance + len(reading.others), len(reading.prefixes)


def _no_such_key(key: str | None, found: Sequence[Reading]) -> str:
    there = list(dict.fromkeys(reading.key for reading in found if reading.key and reading.state))
    return f"there is no {key!r} in it" + (f", only {', '.join(there[:5])}" if there else "")


def _misfit(reading: Reading) -> str:
    """What is wrong with the reading that comes nearest, and what to do."""
    shapes = [f"{key}: {_shapes_of(reading, key)}" for key in reading.misshapen]
    kinds = [f"{key}: {str(reading.state[key].dtype).removeprefix('torch.')}" for key in reading.unusable]
    problems = (
        _some(reading.missing, "missing"),
        _some(reading.unexpected, "unexpected"),
        _some(shapes, "of another shape"),
        _some(kinds, "quantised or without values"),
    )
    read_as = reading.in_words()
    return f"{'; '.join(filter(None, problems))}{f', read as {read_as}' if read_as else ''}. {_advice(reading)}"


def _advice(reading: Reading) -> str:
    if reading.unusable and reading.distance == len(reading.unusable):
        return "Give the weights from before they were quantised"
    if reading.fits_but_for_its_head:
        return (
            "Only the classifier differs: a teacher that is fine-tuned first (--train-teacher N) gets a new one, and "
            "teacher.classes=FILE names its class for each of the data's"
        )
    common = _common_prefix(reading.unexpected) if reading.missing else ""
    every = f"Every key in it has the prefix {common!r}, and without it none fits either. " if common else ""
    return f"{every}Are they of another architecture?"


def _common_prefix(keys: Sequence[str]) -> str:
    firsts = {key.partition(".")[0] for key in keys}
    return f"{firsts.pop()}." if len(firsts) == 1 and len(keys) > 2 else ""


def _some(keys: Sequence[str], what: str, most: int = 3) -> str:
    if not keys:
        return ""
    return f"{len(keys)} {what} ({listed(keys, most)})"


def _shapes_of(reading: Reading, key: str) -> str:
    return f"file {_shape(reading.state[key])}, model {_shape(reading.wanted[key])}"


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
