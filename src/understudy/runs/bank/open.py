"""The banks of a run: found, compared with what the run wants, and refused in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.core.image_size import ImageSize
from understudy.core.outputs import LOGITS
from understudy.data import DataSplits
from understudy.models import Network
from understudy.recipes.schema import BankConfig, Recipe
from understudy.runs.bank.beside import FURTHER, bank_path, beside_key, heads_of, recipe_alone
from understudy.runs.bank.key import bank_key, versions_here
from understudy.runs.bank.views import limit_views, num_passes, views_notes
from understudy.teachers.bank.identity import differing_content, version_note
from understudy.teachers.bank.seeds import SeededBanks
from understudy.teachers.bank.store import BankFolder
from understudy.teachers.bank.teacher import BankTeacher
from understudy.teachers.several import SeveralRunTeachers
from understudy.utils.errors import UserError
from understudy.utils.untrusted import given_path

__all__ = [
    "OpenedBanks",
    "bank_folder",
    "open_all_banks",
    "open_banks",
    "refuse_absent_banks",
    "was_made_unturned",
    "with_banked_teacher",
]

_OF_PADDING = ("  images.padded_in_batches_of", "  images.aspect_groups", "  images.padded_to")
_OF_WINDOWS = ("  images.augment", "  images.size", "  images.shorter_side")  # what a segmenter's windows are cut by
BANKED_SETTINGS = ("model", "weights", "kwargs", "classes", "image_size")  # of the teacher, in a bank's key


def bank_folder(path: str, seed: int) -> BankFolder:
    """Where the bank of a seed lies below the path that people name."""
    return BankFolder(given_path(path, what="bank") / f"seed{seed}")


def with_banked_teacher(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's plain values with what its bank knows of the teacher, where they leave that open.

    A teacher that they name otherwise stays: that it is another one is said when the bank is opened.

    Raises:
        UserError: no teacher is named, and no bank is there that knows one.
    """
    teacher, bank = settings.get("teacher") or {}, settings.get("bank")
    path = bank.get("path") if isinstance(bank, Mapping) else bank
    if not isinstance(path, str) or not isinstance(teacher, Mapping):
        return dict(settings)
    folder = given_path(path, what="bank")
    banked = _banked_settings(folder)
    if banked is None:
        if "model" not in teacher:
            raise UserError(f"bank {path}: there is none, and so no teacher; `understudy bank --out {path}` makes one")
        return dict(settings)
    if "model" not in teacher:  # who names one teacher means no other beside it
        beside = {below.name: _banked_settings(below) for below in sorted(folder.glob(f"{FURTHER}/*"))}
        banked |= {"also": also} if (also := {head: told for head, told in beside.items() if told}) else {}
    if teacher.get("model", banked.get("model")) != banked.get("model") or teacher.get("weights") is not None:
        return dict(settings)
    return {**settings, "teacher": {**banked, **{name: value for name, value in teacher.items() if value is not None}}}


def _banked_settings(folder: Path) -> dict[str, Any] | None:
    """What a folder with the banks of one teacher knows of it; None where there are none."""
    banks = [BankFolder(seed) for seed in sorted(folder.glob("seed*")) if BankFolder(seed).exists]
    if not banks:
        return None
    key = banks[0].manifest().key.get("teacher")
    return {name: key[name] for name in BANKED_SETTINGS if name in key} if isinstance(key, Mapping) else {}


@dataclass(frozen=True)
class OpenedBanks:
    """The banks of a run as its teacher, and what the run writes down of them."""

    teacher: SeededBanks | SeveralRunTeachers
    key: str  # digest of what they hold, of several teachers one beside the other
    num_views: int
    image_size: ImageSize  # of the images that were shown
    notes: tuple[str, ...]


def open_all_banks(
    recipe: Recipe, data: DataSplits, *, image_size: ImageSize, student: Network, world_size: int = 1
) -> OpenedBanks:
    """The banks of every teacher of the run; arguments and errors as of `open_banks`."""
    assert recipe.bank is not None
    refuse_absent_banks(recipe)
    banks: dict[str, SeededBanks] = {}
    for head in heads_of(recipe):
        shown = next((first.first.manifest.teacher.image_size for first in banks.values()), image_size)
        beside = beside_key(recipe, head, shown=shown, image_size=image_size)
        alone, views = recipe_alone(recipe, head), recipe.bank.num_views
        found = open_banks(
            alone,
            data,
            image_size=image_size,
            student=student,
            num_views=views,
            beside=beside,
            world_size=world_size,
        )
        banks[head or LOGITS] = found
    first, key = banks[LOGITS], "+".join(each.first.manifest.content_key for each in banks.values())
    if recipe.bank.key not in (None, key):
        raise _another_content(recipe.bank, key)
    num_views = min(each.num_views for each in banks.values())
    passes = num_passes(recipe, len(data.train), world_size=world_size)
    notes = [
        *views_notes(num_views, recipe, passes=passes),
        *(note for each in banks.values() for note in _version_notes(each)),
    ]
    return OpenedBanks(
        teacher=first if len(banks) == 1 else SeveralRunTeachers(banks),
        key=key,
        num_views=num_views,
        image_size=first.first.manifest.teacher.image_size,
        notes=tuple(dict.fromkeys(notes)),
    )


def open_banks(
    recipe: Recipe,
    data: DataSplits,
    *,
    image_size: ImageSize,
    student: Network,
    num_views: int | None = None,
    beside: Mapping[str, Any] | None = None,
    world_size: int = 1,
) -> SeededBanks:
    """The bank of every seed of the run, all of them of equally many views.

    Args:
        recipe: of the run.
        data: that the run is going to train on.
        image_size: of the student's images.
        student: whose normalisation some transforms depend on.
        num_views: that the run began with; None: as many as every seed has.
        beside: what its key says of a teacher beside another.
        world_size: processes of the run.

    Raises:
        UserError: a seed has none, one is incomplete, of something else than this run wants, or of too few views.
    """
    assert recipe.bank is not None
    refuse_absent_banks(recipe)
    key = bank_key(recipe, data, image_size=image_size, student=student, beside=beside)
    banks = {}
    for seed in recipe.seeds:
        bank = BankTeacher(bank_folder(recipe.bank.path, seed).path)
        found = differing_content({**key, "seed": seed}, bank.manifest.key)
        if found:
            begins = f"{bank.name} is of something else than this run; bank it anew:"
            raise UserError("\n".join([begins, *found, *_way_back(found, recipe)]))
        if bank.manifest.layout.num_samples != len(data.train):
            raise UserError(f"{bank.name}: bank.json contradicts itself in the number of images; make the bank anew")
        banks[seed] = bank
    found_banks = SeededBanks(banks, path=recipe.bank.path)
    _refuse_another_content(recipe, found_banks)
    limit_views(found_banks, num_views, recipe, passes=num_passes(recipe, len(data.train), world_size=world_size))
    return found_banks


def _way_back(found: list[str], recipe: Recipe) -> Iterator[str]:
    """What to do about weights whose bytes are others."""
    assert recipe.teacher is not None
    if recipe.task == "segmentation" and any(line.startswith(_OF_WINDOWS) for line in found):
        yield (
            "logits of one window cannot be cut or enlarged into another's: at each pixel a segmenter says what it "
            "makes of all that it was shown around it, at that scale"
        )
    is_scaled_alike = not any(line.startswith(("  images.shorter_sides", "  images.longer_side")) for line in found)
    if is_scaled_alike and any(line.startswith(_OF_PADDING) for line in found):
        yield (
            "a detector sees an image with the padding of its batch, and its maps depend on that; keep data.batch_size "
            "and data.aspect_groups (update, accumulate and the number of processes may change), or bank images that "
            "are all padded alike (one data.shorter_side of images of one shape)"
        )
    if any(line.startswith("  teacher.weights   here 'SHA-256") for line in found):
        yield (
            f"{recipe.teacher.weights} holds other weights than those that were banked; put back the file that the "
            "bank was made of, or bank this one (`understudy bank`, with another --out)"
        )


def was_made_unturned(recipe: Recipe) -> bool:
    """Whether the recipe's bank was made of no image that was turned upright."""
    if recipe.bank is None or not bank_folder(recipe.bank.path, recipe.seeds[0]).exists:
        return False
    images = bank_folder(recipe.bank.path, recipe.seeds[0]).manifest().key.get("images")
    return isinstance(images, Mapping) and "exif_rotation" not in images


def _version_notes(banks: SeededBanks) -> Iterator[str]:
    """A warning where a bank was made with other versions than those that are here."""
    here = versions_here()
    notes = [version_note(f"bank {banks.path}", told.versions, here) for told in banks.manifests.values()]
    yield from (note for note in notes if note is not None)


def refuse_absent_banks(recipe: Recipe) -> None:
    """Refuse a bank that is not there, or not for every seed of the run and each of its teachers."""
    if recipe.bank is None:
        return
    for head in heads_of(recipe):
        _refuse_absent(recipe, head)


def _refuse_absent(recipe: Recipe, head: str | None) -> None:
    assert recipe.bank is not None
    named = recipe.bank.path
    path, of_whom = bank_path(named, head), "" if head is None else f" of the teacher of {head}"
    absent = [seed for seed in recipe.seeds if not bank_folder(path, seed).exists]
    if not absent:
        return
    here = given_path(path, what="bank")
    if head is None and BankFolder(here).exists:
        raise UserError(f"bank {path}: this is the bank of one seed; give the folder that holds it, {here.parent}")
    names = [folder.name.removeprefix("seed") for folder in here.glob("seed*") if BankFolder(folder).exists]
    there = sorted(int(name) for name in names if name.isdigit())
    wanted = ",".join(map(str, absent))
    if not there:
        found = f"holds no bank (no seed{absent[0]}/bank.json in it)" if here.is_dir() else "there is none"
        if head is not None:
            found = f"holds none{of_whom} (no {path.removeprefix(named).strip('/')}/seed{absent[0]}/bank.json in it)"
        raise UserError(f"bank {named}: {found}; `understudy bank RECIPE --views 8 --out {named}` makes one")
    views = max(bank_folder(path, seed).manifest().num_views for seed in there)
    raise UserError(
        f"bank {named} holds seed {', '.join(map(str, there))}{of_whom}, but this run also has seed {wanted}, whose "
        f"augmentation is another; add it (`understudy bank RECIPE --views {views} --seeds {wanted}, --out {named}`), "
        f"or run with --seeds {','.join(map(str, there))}{',' * (len(there) == 1)}"
    )


def _refuse_another_content(recipe: Recipe, banks: SeededBanks) -> None:
    """Seeds must be of one teacher, and the bank the same as when the recipe was written down."""
    assert recipe.bank is not None
    keys = {seed: told.content_key for seed, told in banks.manifests.items()}
    if len(set(keys.values())) > 1:
        raise UserError(
            f"bank {recipe.bank.path}: its seeds were made with different teachers or settings ({keys}); make them "
            "with one command"
        )
    found = next(iter(keys.values()))
    if recipe.bank.key not in (None, found):
        raise _another_content(recipe.bank, found)


def _another_content(bank: BankConfig, found: str) -> UserError:
    return UserError(
        f"bank.key: {bank.path} has another content than this recipe was run with (here {found!r}, there "
        f"{bank.key!r}); leave the key out to take what is there"
    )
