"""Files of weights: found below the path that a person names, and read without running what they may contain."""

from __future__ import annotations

import argparse
import collections
import datetime
import hashlib
import importlib
import pathlib
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from understudy.utils.errors import UserError, nearest
from understudy.utils.text import listed
from understudy.utils.untrusted import given_path, plain_json, text_of

__all__ = ["MAX_CONFIG_BYTES", "content_of", "split_weights", "weights_digest", "weights_file"]

MAX_CONFIG_BYTES = 16_000_000  # label names of a million classes, or the index of a million tensors

_WORDS = ("pretrained", "none")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar", "")  # mdistiller writes "student_best"
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # of weights in several files
_IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin", *_INDICES, "student/model.safetensors")  # timm's, a run's
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/\\])")

# What lies beside weights in the files of common tools, by the names that pickles call it. Those of the standard
# library and of numpy are themselves, and run nothing; other libraries' have empty classes or mappings in their place.
_MULTIARRAY = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
_NUMBERS = ("Bool", "Float16", "Float32", "Float64", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32")
_PLAIN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    types.SimpleNamespace,
    *((kind, f"builtins.{kind.__name__}") for kind in (dict, list, tuple, int, float, str, bool)),
    *(getattr(datetime, name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        (pure, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")  # the latter since Python 3.13
        for pure, names in (
            (pathlib.PurePosixPath, ("Path", "PurePath", "PosixPath", "PurePosixPath")),
            (pathlib.PureWindowsPath, ("WindowsPath", "PureWindowsPath")),
        )
        for name in names
    ),
    np.dtype,
    np.ndarray,
    *(getattr(np.dtypes, f"{name}DType") for name in (*_NUMBERS, "UInt64", "Str")),
    *(
        (getattr(_MULTIARRAY, name), f"numpy.{core}.multiarray.{name}")
        for core in ("_core", "core")  # the latter before numpy 2
        for name in ("scalar", "_reconstruct")
    ),
]


class _PassedOver:
    """Stands for an object of another library, and keeps nothing of it."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _mapping(*_: object) -> dict[Any, Any]:
    return {}


_STAND_INS: list[tuple[Callable[..., Any], str]] = [
    (_mapping, "collections.defaultdict"),
    *(
        (collections.OrderedDict, name)  # torch fills no subclass of dict but this one
        for name in (
            "pytorch_lightning.utilities.parsing.AttributeDict",
            "lightning.pytorch.utilities.parsing.AttributeDict",
            "lightning_fabric.utilities.data.AttributeDict",
            "lightning.fabric.utilities.data.AttributeDict",
            "yacs.config.CfgNode",
            "easydict.EasyDict",
            "addict.addict.Dict",
            "mmengine.config.config.ConfigDict",
            "mmcv.utils.config.ConfigDict",
        )
    ),
    *(
        (_PassedOver, name)
        for name in (
            "mmengine.logging.history_buffer.HistoryBuffer",
            "omegaconf.dictconfig.DictConfig",
            "omegaconf.listconfig.ListConfig",
            "omegaconf.base.ContainerMetadata",
            "omegaconf.base.Metadata",
            "omegaconf.nodes.AnyNode",
            "typing.Any",
        )
    ),
]


def split_weights(path: str | Path) -> tuple[str, str | None]:
    """What a person names as weights, without the KEY of "FILE#KEY", and that KEY."""
    text = str(path)
    before, mark, key = text.rpartition("#")
    if not mark or not before or given_path(text, what="weights").exists():
        return text, None  # a # may be part of a name
    return before, key


def weights_file(path: str | Path) -> Path:
    """The file of weights that `path` means: itself, or the one in a timm model folder or a run's folder.

    Where a folder keeps its weights in several files, their index.

    Raises:
        UserError: there is none, or its kind is unknown.
    """
    path, _ = split_weights(path)
    given = given_path(path, what="weights")
    if given.is_dir():
        return _in_folder(given, path)
    if not given.is_file():
        raise UserError(f"weights {path!r}: {_why_none(path, given)}")
    if given.suffix not in (".safetensors", *_PICKLES) and not _looks_like_weights(given):
        raise UserError(f"weights {path!r}: {given.suffix} is no kind of weights file; give .safetensors, .pt or .pth")
    return given


def weights_digest(path: str | Path) -> str:
    """SHA-256 of all bytes of the file, or files; nothing is unpickled.

    Raises:
        UserError: as `weights_file`.
    """
    file, digest = weights_file(path), hashlib.sha256()
    for part in [file, *_shards(file)]:
        with part.open("rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 20), b""):
                digest.update(chunk)
    return digest.hexdigest()


def content_of(path: str | Path) -> object:
    """What a file of weights holds: tensors by name, or what else was saved with them.

    Raises:
        UserError: no such file, a damaged one, or one that would run code.
    """
    file = weights_file(path)
    if file.name in _INDICES:
        return {key: value for shard in _shards(file) for key, value in _tensors_of(shard).items()}
    return _read(file)


def _in_folder(given: Path, path: str) -> Path:
    found = next((given / name for name in _IN_A_FOLDER if (given / name).is_file()), None)
    if found is not None:
        return found
    others = sorted(file.name for file in given.iterdir() if file.suffix in (".safetensors", *_PICKLES[:-1]))
    hint = f"; it holds {', '.join(others[:3])}: name the file itself" if others else ""
    raise UserError(f"weights {path!r}: the folder has none of {', '.join(_IN_A_FOLDER)}{hint}")


def _why_none(path: str, given: Path) -> str:
    """Why there is no file where weights were looked for."""
    address = _ADDRESS.match(path)
    if address:
        return f"is an address ({address['scheme']}), and weights are read from files; fetch it, and give the file"
    if path.startswith(("hf:", "hf-hub:", "hf_hub:", "timm:", "torchvision:")):
        return "names a model, not a file; give that as the model, with weights: pretrained"
    if given.is_symlink():
        return f"is a link to {given.readlink()}, and nothing is there"
    close = nearest(path, _WORDS)
    beside = [other.name for other in given.parent.iterdir()] if given.parent.is_dir() else []
    near = nearest(given.name, beside)
    close = close or (str(Path(path).with_name(near)) if near else None)
    return f"there is no such file; give pretrained, none or a file{f'; did you mean {close}?' if close else ''}"


def _looks_like_weights(file: Path) -> bool:
    """By its first bytes: a zip (torch's own), a pickle, or the header of safetensors."""
    return _first_bytes(file)[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or _is_safetensors(
        file
    )


def _is_safetensors(file: Path) -> bool:
    first = _first_bytes(file)
    return len(first) > 8 and first[8:9] == b"{" and int.from_bytes(first[:8], "little") < file.stat().st_size


def _first_bytes(file: Path, most: int = 64) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(most)
    except OSError as error:
        raise UserError(f"weights {str(file)!r}: cannot be read ({error.strerror or error})") from None


def _shards(file: Path) -> list[Path]:
    """The files beside an index that it names; none of another file."""
    if file.name not in _INDICES:
        return []
    try:
        index = plain_json(text_of(file, most_bytes=MAX_CONFIG_BYTES))
        names = sorted(set(index["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{file}: is no index of weights (weight_map: the file of each tensor)") from None
    odd = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if odd:
        raise UserError(f"{file}: names {odd[0]!r}, which is no file beside it")
    absent = [name for name in names if not (file.parent / name).is_file()]
    if absent:
        raise UserError(f"{file}: {len(absent)} of its {len(names)} files are not there ({absent[0]}); copy them, too")
    return [file.parent / name for name in names]


def _tensors_of(shard: Path) -> dict[Any, Any]:
    found = _read(shard)
    if not isinstance(found, dict):
        raise UserError(f"weights {str(shard)!r}: holds no tensors by name")
    return found


def _read(file: Path) -> object:
    if file.suffix == ".safetensors" or _is_safetensors(file):
        return _read_safetensors(file)
    return _read_pickle(file)


def _read_safetensors(file: Path) -> object:
    try:
        return load_file(file)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:  # or a kind torch does not know
        raise UserError(
            f"weights {str(file)!r}: damaged, or no safetensors file ({error}); {_no_weights(file)}"
        ) from None


def _read_pickle(file: Path) -> object:
    if reason := _foreign(file):
        raise UserError(f"weights {str(file)!r}: {reason}")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_PLAIN, *_STAND_INS]):
            warnings.simplefilter("ignore")  # of a pickle protocol other than torch's own
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _looks_like_weights(file):
            raise UserError(f"weights {str(file)!r}: damaged, or no torch file; {_no_weights(file)}") from error
        raise UserError(
            f"weights {str(file)!r}: refused, since it holds more than tensors{_what_it_would_run(file)}, and reading "
            "that would run code. Where you trust it, read it yourself and save its tensors alone: "
            "torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception as error:  # a damaged pickle may fail in any way; with weights_only nothing in it runs
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"weights {str(file)!r}: damaged, or no torch file ({reason}); {_no_weights(file)}") from None


def _foreign(file: Path) -> str | None:
    """What a zip is that torch.load does not read as weights."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return "is TorchScript, which is code; save its tensors: torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
    if any(name.endswith((".npy", "saved_model.pb", "model.json")) for name in names):
        return "holds no torch weights (it is an archive of another library)"
    return None


def _no_weights(file: Path) -> str:
    """What else the file may be, and so what to do."""
    first = _first_bytes(file).lstrip().lower()
    if first.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS: git lfs pull fetches the weights"
    if first.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page: fetch the file itself"
    return "copy it again"


def _what_it_would_run(file: Path) -> str:
    try:
        with torch.serialization.safe_globals([*_PLAIN, *_STAND_INS]):  # which are not why the file was refused
            found = list(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # torch names them in its zip format only
        return ""
    model = f"; as a model it is ultralytics:{file}" if any("ultralytics." in name for name in found) else ""
    return f" ({listed(found, 3)}{model})" if found else ""
