"""Files of a bank: bank.json, which says what it is a bank of, and shards, which are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from understudy.core.config import Config
from understudy.core.image_size import ImageSize
from understudy.teachers.bank.packing import BankLayout
from understudy.utils.errors import UserError
from understudy.utils.files import write_atomically
from understudy.utils.untrusted import plain_json, text_of

__all__ = ["BankFolder", "Manifest", "Shard", "TeacherFacts", "by_digest", "name_of"]

MOST_VIEWS = 10_000
MAX_MANIFEST_BYTES = 64_000_000  # a shard takes about 110


class Shard(Config):
    """One file of rows."""

    sha256: str
    num_bytes: int = Field(ge=0)


class TeacherFacts(Config):
    """What is known of a banked teacher without its network."""

    model: str
    starts_from: str  # in words
    fingerprint: str  # of its state dict
    mean: tuple[float, ...] | None  # its own normalisation, per channel in [0,1]
    std: tuple[float, ...] | None
    resized_to: ImageSize | None  # that it resizes images to by itself
    image_size: ImageSize  # of the images that it was shown
    parameters: int
    macs: int
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)  # top1, top5 and loss by split
    classifier: Literal["linear", "convolution"] | None = None  # what its weights in teacher.safetensors belong to
    norms: dict[str, float] = Field(default_factory=dict)  # eps of the batch norm behind a tap; weights likewise
    sha256: str = ""  # of teacher.safetensors


class Manifest(Config):
    """What a bank is a bank of, what its rows hold, and which of them are there."""

    format: Literal[1] = 1
    key: dict[str, Any]  # teacher, transforms, data and seed: a run with another is refused
    versions: dict[str, str | None] = Field(default_factory=dict)  # of what augments and looks, when it was begun
    teacher: TeacherFacts
    layout: BankLayout
    num_views: int = Field(ge=1, le=MOST_VIEWS)
    shards: dict[str, Shard] = Field(default_factory=dict)  # by "VIEW/NUMBER"

    @property
    def num_shards(self) -> int:
        """How many a complete bank has."""
        return self.num_views * self.layout.num_shards

    @property
    def places(self) -> list[tuple[int, int]]:
        """(view, number) of every shard that a complete bank has, in the order of writing."""
        return [(view, number) for view in range(self.num_views) for number in range(self.layout.num_shards)]

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Those that are not there yet."""
        return [place for place in self.places if name_of(*place) not in self.shards]

    @property
    def content(self) -> tuple[dict[str, Any], str, dict[str, Any]]:
        """Everything that the outputs depend on but the seed: the key, the teacher's weights, how rows are narrowed."""
        layout = self.layout.model_dump(mode="json", include={"dtype", "topk"})
        return {**by_digest(self.key), "seed": None}, self.teacher.fingerprint, layout

    @property
    def content_key(self) -> str:
        """Sixteen digits of the content, so alike for all seeds of a bank."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:16]


class BankFolder:
    """The folder of one seed's bank."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest_file = path / "bank.json"
        self.teacher_file = path / "teacher.safetensors"

    @property
    def exists(self) -> bool:
        """Whether there is a bank, complete or not."""
        return self.manifest_file.is_file()

    def shard_file(self, view: int, number: int) -> Path:
        """Where the rows of some steps of a view lie."""
        return self.path / f"view{view:04d}" / f"shard{number:05d}.safetensors"

    def manifest(self) -> Manifest:
        """What bank.json says.

        Raises:
            UserError: there is none, or it is damaged.
        """
        if not self.exists:
            raise UserError(f"bank {self.path}: holds no bank (no bank.json); `understudy bank` makes one")
        text = text_of(self.manifest_file, most_bytes=MAX_MANIFEST_BYTES)
        try:
            found = plain_json(text)
        except ValueError as error:
            raise UserError(
                f"{self.manifest_file}: not readable as JSON ({error}); put it back, or make the bank anew"
            ) from None
        if not isinstance(found, dict):
            raise UserError(f"{self.manifest_file}: must hold a mapping, got {type(found).__name__}")
        return Manifest.read(found, what=str(self.manifest_file))

    def write_manifest(self, manifest: Manifest) -> None:
        """Write bank.json whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.manifest_file, manifest.model_dump_json(indent=1).encode())

    def write_teacher(self, tensors: Mapping[str, Tensor]) -> str:
        """Write what belongs to the teacher itself; gives the file's SHA-256."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = save(dict(tensors))
        write_atomically(self.teacher_file, content)
        return hashlib.sha256(content).hexdigest()

    def teacher_tensors(self, manifest: Manifest) -> dict[str, Tensor]:
        """What `write_teacher` wrote."""
        return self._read(self.teacher_file, manifest.teacher.sha256)

    def write_shard(self, manifest: Manifest, view: int, number: int, rows: Mapping[str, Tensor]) -> Manifest:
        """Write a shard and note it in bank.json, in this order: a shard that is noted is whole."""
        file = self.shard_file(view, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = save(dict(rows))
        write_atomically(file, content)
        shard = Shard(sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))
        shards = {**manifest.shards, name_of(view, number): shard}
        in_order = {name: shards[name] for place in manifest.places if (name := name_of(*place)) in shards}
        grown = manifest.model_copy(update={"shards": in_order})
        self.write_manifest(grown)
        return grown

    def read_shard(self, manifest: Manifest, view: int, number: int, *, checked: bool) -> dict[str, Tensor]:
        """The rows of a shard as tensors that are mapped to its file; `checked`: its checksum was looked at before.

        Raises:
            UserError: it is missing or damaged.
        """
        return self._read(
            self.shard_file(view, number), None if checked else manifest.shards[name_of(view, number)].sha256
        )

    def has_teacher(self, manifest: Manifest) -> bool:
        """Whether what belongs to the teacher itself is there, as it was written."""
        return _is_whole(self.teacher_file, manifest.teacher.sha256)

    def whole_shards(self, manifest: Manifest) -> dict[str, Shard]:
        """The noted shards that are there with the bytes that were written."""
        noted = {name_of(*place): self.shard_file(*place) for place in manifest.places}
        return {
            name: shard
            for name, shard in manifest.shards.items()
            if name in noted and _is_whole(noted[name], shard.sha256)
        }

    def absent(self, manifest: Manifest) -> list[Path]:
        """Files of noted shards that are gone, or of another size; no content is read."""
        files = [(self.shard_file(*place), manifest.shards[name_of(*place)].num_bytes) for place in manifest.places]
        return [file for file, size in files if not file.is_file() or file.stat().st_size != size]

    def _read(self, file: Path, sha256: str | None) -> dict[str, Tensor]:
        way_out = "the `understudy bank` command that made the bank writes it again"
        if not file.is_file():
            raise UserError(f"{file}: is missing; {way_out}")
        if sha256 is not None and not _is_whole(file, sha256):
            raise UserError(f"{file}: is damaged (its checksum differs from bank.json's); {way_out}")
        try:
            rows: dict[str, Tensor] = load_file(file)
        except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}); {way_out}") from None
        return rows


def by_digest(key: Mapping[str, Any]) -> dict[str, Any]:
    """A bank's key, the teacher's weights in it called by their digest where that is known, and not by a path."""
    teacher = key.get("teacher")
    if not isinstance(teacher, Mapping) or not teacher.get("sha256"):
        return dict(key)
    kept = {name: value for name, value in teacher.items() if name != "sha256"}
    return {**key, "teacher": {**kept, "weights": f"SHA-256 {str(teacher['sha256'])[:16]}"}}


def name_of(view: int, number: int) -> str:
    """What bank.json calls a shard."""
    return f"{view}/{number}"


def _is_whole(file: Path, sha256: str) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
