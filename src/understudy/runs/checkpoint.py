"""Checkpoints of a run: saved whole, found again, damaged ones passed over."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from understudy.utils.errors import UserError
from understudy.utils.files import write_atomically

__all__ = ["end_file", "is_damaged", "keep_end", "load_end", "load_latest", "remove", "save"]

DIGEST_BYTES = hashlib.sha256().digest_size


def save(folder: Path, tag: str, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write `state` as the newest checkpoint of `tag`; only the newest `keep` stay.

    Files are numbered by their step, but never below an older one: with another number of processes the same moment may
    be another step.

    Args:
        folder: where checkpoints lie; made if absent.
        tag: whose they are, such as "seed0".
        step: numbers it.
        state: tensors, numbers, strings, lists and dicts only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    newest = max((_number(old) for old in _checkpoints(folder, tag)), default=0)
    file = folder / f"{tag}-{step if step >= newest else newest + 1:09d}.pt"
    # The digest is the file's own end, so that no moment has one without the other.
    write_atomically(file, content + hashlib.sha256(content).digest())
    for old in _checkpoints(folder, tag)[:-keep]:
        _delete(old)
    return file


def load_latest(folder: Path, tag: str, *, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint of `tag` whose checksum holds, or None where there never was one.

    Args:
        folder: where checkpoints lie.
        tag: whose they are.
        say: is told of a damaged one that was passed over.

    Raises:
        UserError: there are checkpoints, but none is whole; never a silent fresh start.
    """
    files = _checkpoints(folder, tag)
    for file in reversed(files):
        state = _read(file)
        if state is not None:
            return state
        say(f"checkpoint {file.name} is damaged; falling back to the one before")
    if files:
        raise UserError(
            f"none of the {len(files)} checkpoints {tag}-*.pt in {folder} is whole; "
            "delete them to start afresh, or give --overwrite"
        )
    return None


def end_file(folder: Path, tag: str) -> Path:
    """Where `keep_end` keeps the last checkpoint of `tag`."""
    return folder / f"{tag}-end.pt"


def keep_end(folder: Path, tag: str) -> None:
    """Keep the newest checkpoint of `tag`, from which it may go on some day, and delete all others."""
    files = _checkpoints(folder, tag)
    for old in files[:-1]:  # the newest stays the newest, whenever this is cut off
        _delete(old)
    if files:
        files[-1].replace(end_file(folder, tag))
    remove(folder, tag)


def load_end(folder: Path, tag: str) -> dict[str, Any] | None:
    """What `keep_end` kept; None where there is nothing, or nothing whole."""
    file = end_file(folder, tag)
    return _read(file) if file.is_file() else None


def is_damaged(file: Path) -> bool:
    """Whether a checkpoint is not what was written."""
    return _read(file) is None


def remove(folder: Path, tag: str) -> None:
    """Delete every checkpoint of `tag` but the one that `keep_end` kept."""
    for file in [*_checkpoints(folder, tag), *folder.glob(f".{tag}-*.partial")]:
        _delete(file)


def _read(file: Path) -> dict[str, Any] | None:
    stored = file.read_bytes()
    content, digest = stored[:-DIGEST_BYTES], stored[-DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol other than torch's own
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle may fail in any way; with weights_only nothing in it runs
        return None
    return state if isinstance(state, dict) else None


def _checkpoints(folder: Path, tag: str) -> list[Path]:
    return sorted(folder.glob(f"{tag}-{'[0-9]' * 9}.pt"))


def _number(file: Path) -> int:
    return int(file.stem[-9:])


def _delete(file: Path) -> None:
    file.unlink(missing_ok=True)
