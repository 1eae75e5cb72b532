"""Weights from files: read without running code, and fitted to a network or refused by key."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from understudy.config import UserError, nearest, shortened_repr
from understudy.models.key_maps import with_own_keys
from understudy.networks import grow_observers_
from understudy.taps import classifier_name
from understudy.untrusted import given_path, plain_json, text_of

__all__ = ["folder_normalisation", "load_weights", "read_config", "read_state_dict", "weights_file"]

_WORDS = ("pretrained", "none")
MAX_CONFIG_BYTES = 16_000_000  # label names of a million classes

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar", "")  # mdistiller writes "student_best"
_IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin", "student/model.safetensors")  # timm's two, and a run's
_NESTED_UNDER = ("state_dict", "model")


def weights_file(path: str | Path) -> Path:
    """The file of weights that `path` means: itself, or the one in a timm model folder or a run's folder.

    Raises:
        UserError: there is none, or its kind is unknown.
    """
    given = given_path(path, what="weights")
    if given.is_dir():
        found = next((given / name for name in _IN_A_FOLDER if (given / name).is_file()), None)
        if found is None:
            raise UserError(f"weights {str(path)!r}: the folder has none of {', '.join(_IN_A_FOLDER)}")
        return found
    if not given.is_file():
        close = nearest(str(path), _WORDS)
        hint = f"; did you mean {close}?" if close else ""
        raise UserError(f"weights {str(path)!r}: there is no such file; give pretrained, none or a file{hint}")
    if given.suffix not in (".safetensors", *_PICKLES):
        raise UserError(
            f"weights {str(path)!r}: {given.suffix} is no kind of weights file; give .safetensors, .pt or .pth"
        )
    return given


def folder_normalisation(
    path: str | Path,
) -> tuple[Sequence[float] | None, Sequence[float] | None] | None:
    """(mean, std) that a model folder's config.json states for its weights; None where it states none."""
    file = weights_file(path)
    config = read_config(file.parent) if file.name in ("model.safetensors", "pytorch_model.bin") else {}
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
    """Tensors by name from a .safetensors file, or from a .pt/.pth file without running what it may contain.

    Plain, or nested under "state_dict" or "model"; the "module." that DataParallel puts in front is dropped.

    Raises:
        UserError: no such file, a damaged one, one that would run code, or one without a state dict.
    """
    file = weights_file(path)
    read = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    for key in _NESTED_UNDER:
        if isinstance(read, Mapping) and isinstance(read.get(key), Mapping):
            read = read[key]
    if not isinstance(read, Mapping) or not read or not all(isinstance(value, Tensor) for value in read.values()):
        raise UserError(
            f"weights {str(path)!r}: no state dict in it (tensors by name, plain or under "
            f"{' or '.join(repr(key) for key in _NESTED_UNDER)}); save one with torch.save(model.state_dict(), FILE)"
        )
    return {str(key).removeprefix("module."): value for key, value in read.items()}


def load_weights(module: nn.Module, path: str | Path, *, name: str, new_head: bool = False) -> None:
    """Load a file's weights into `module`; every key must be there in the same shape.

    A cifar network also takes the keys that the field's published checkpoints have for it (key_maps.py).

    Args:
        module: changed in place.
        path: as `read_state_dict` takes it.
        name: what error messages call the model.
        new_head: a classifier for another number of classes keeps its fresh values; the rest must fit.

    Raises:
        UserError: another architecture; names up to three keys of each kind, with their counts.
    """
    state = with_own_keys(module, read_state_dict(path))
    grow_observers_(module, state)
    wanted = module.state_dict()
    heads = _classifier_keys(module, wanted)
    misshapen = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if new_head and set(misshapen) & heads:
        state = {key: value for key, value in state.items() if key not in heads}
        state |= {key: wanted[key] for key in heads}
        misshapen = [key for key in misshapen if key not in heads]
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    if missing or unexpected or misshapen:
        shapes = [f"{key}: file {_shape(state[key])}, model {_shape(wanted[key])}" for key in misshapen]
        problems = (_some(missing, "missing"), _some(unexpected, "unexpected"), _some(shapes, "of another shape"))
        only_the_head = not missing and not unexpected and set(misshapen) <= heads
        raise UserError(
            f"weights {str(path)!r} do not fit {name}: {'; '.join(filter(None, problems))}. "
            + (
                "Only the classifier differs: a teacher that is fine-tuned first (--train-teacher N) gets a new one"
                if only_the_head
                else "Are they of another architecture?"
            )
        )
    module.load_state_dict(state)


def _read_safetensors(file: Path) -> object:
    try:
        return load_file(file)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:  # or a kind torch does not know
        raise UserError(f"weights {str(file)!r}: damaged, or no safetensors file ({error}); copy it again") from None


def _read_pickle(file: Path) -> object:
    try:
        # Beside the tensors, RepDistiller's files hold the command line's options; that class runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of a pickle protocol other than torch's own
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"weights {str(file)!r}: refused, since it holds more than tensors{_what_it_would_run(file)}, and reading "
            "that would run code. Where you trust it, read it yourself and save its tensors alone: "
            "torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # a damaged pickle may fail in any way; with weights_only nothing in it runs
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"weights {str(file)!r}: damaged, or no torch file ({reason}); copy it again") from None


def _what_it_would_run(file: Path) -> str:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # torch names them in its zip format only
        return ""
    return f" ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})" if found else ""


def _classifier_keys(module: nn.Module, wanted: Mapping[str, Tensor]) -> set[str]:
    """Keys of the last layer, or layers: a distilled vision transformer declares two."""
    declared = getattr(module, "default_cfg", None) or {}
    names = declared.get("classifier") if isinstance(declared, Mapping) else None
    paths = tuple(names) if isinstance(names, tuple | list) else (classifier_name(module),)
    return {key for key in wanted for path in paths if path and key.startswith(f"{path}.")}


def _some(keys: list[str], what: str, most: int = 3) -> str:
    if not keys:
        return ""
    return f"{len(keys)} {what} ({', '.join(keys[:most])}{', ...' if len(keys) > most else ''})"


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
