"""What a bank is a bank of: compared, key by key, with what a run wants."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from understudy.config import UserError
from understudy.data import DataSplits, augment_for
from understudy.data.augment_config import AugmentParts
from understudy.data.images import BadImageError
from understudy.data.seeding import seeded
from understudy.data.sources import Source
from understudy.hashing import fingerprint
from understudy.models import Network
from understudy.models.weights import weights_file
from understudy.recipe import Recipe
from understudy.teachers.bank import BankTeacher
from understudy.teachers.bank_files import BankFolder
from understudy.untrusted import given_path

__all__ = ["bank_folder", "bank_key", "differing_keys", "notes_on", "open_banks", "refuse_absent_banks"]

NUM_PROBED = 16  # images of a split that its identity is taken from, beside all labels


def bank_key(recipe: Recipe, data: DataSplits, *, seed: int, image_size: int, student: Network) -> dict[str, Any]:
    """Everything that a teacher's outputs depend on, as far as it is known without the teacher's weights."""
    augment = augment_for(recipe.data, data.train)
    teacher = recipe.teacher
    assert teacher is not None, "a recipe with a bank has a teacher"
    drawn = {"first_seed": recipe.seeds[0]} if teacher.weights == "none" else {}
    # What is erased is filled with noise about the student's mean.
    has_parts = isinstance(augment, AugmentParts) and augment.has_parts
    filled = {"mean": student.mean, "std": student.std} if has_parts else {}
    splits = {"train": data.train, "val": data.val} | ({} if data.test is None else {"test": data.test})
    key = {
        "teacher": {"model": teacher.model, "weights": teacher.weights, "kwargs": teacher.kwargs, **drawn},
        "images": {
            "augment": augment.model_dump(mode="json"),
            "copies": recipe.data.copies,
            "size": image_size,
            "in_memory": data.native_size,  # these are augmented in whole batches, with other draws than in workers
            **filled,
        },
        "data": {"classes": len(data.classes), **{name: _identity(source) for name, source in splits.items()}},
        "precision": recipe.precision,
        "seed": seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(key))  # tuples as they come back from a file
    return plain


def differing_keys(here: Any, there: Any, path: str = "") -> Iterator[str]:
    """'  key   here X, there Y' for all in which two keys differ."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for name in sorted({*here, *there}):
            yield from differing_keys(here.get(name), there.get(name), f"{path}.{name}" if path else name)
    elif here != there:
        yield f"  {path}   here {here!r}, there {there!r}"


def bank_folder(path: str, seed: int) -> BankFolder:
    """Where the bank of a seed lies below the path that people name."""
    return BankFolder(given_path(path, what="bank") / f"seed{seed}")


def open_banks(recipe: Recipe, data: DataSplits, *, image_size: int, student: Network) -> dict[int, BankTeacher]:
    """The bank of every seed of the run.

    Raises:
        UserError: a seed has none, one is incomplete, or of something else than this run wants.
    """
    assert recipe.bank is not None
    refuse_absent_banks(recipe)
    banks = {}
    for seed in recipe.seeds:
        bank = BankTeacher(bank_folder(recipe.bank.path, seed).path)
        wanted = bank_key(recipe, data, seed=seed, image_size=image_size, student=student)
        found = list(differing_keys(wanted, bank.manifest.key))
        if found:
            raise UserError("\n".join([f"{bank.name} is of something else than this run; bank it anew:", *found]))
        if recipe.bank.views == "unique" and bank.num_views < recipe.epochs:
            raise UserError(
                f"bank.views: unique, but {bank.name} has {bank.num_views} views for {recipe.epochs} epochs; add views "
                f"(the command that made it, with --views {recipe.epochs}), set epochs={bank.num_views}, or "
                "bank.views=repeat"
            )
        if bank.manifest.layout.num_samples != len(data.train):
            raise UserError(f"{bank.name}: bank.json contradicts itself in the number of images; make the bank anew")
        banks[seed] = bank
    _refuse_another_content(recipe, banks)
    return banks


def notes_on(banks: Mapping[int, BankTeacher], recipe: Recipe) -> Iterator[str]:
    """What a person should be told of the banks of a run, which are in order as far as can be seen."""
    num_views = min(bank.num_views for bank in banks.values())
    if num_views < recipe.epochs:
        views = f"{num_views} view{'s' * (num_views > 1)}"
        yield f"bank     {views} for {recipe.epochs} epochs: every {num_views} epochs the same augmented images"
    weights = _local_weights(recipe)
    written = min(bank.folder.manifest_file.stat().st_mtime for bank in banks.values())
    if weights is not None and weights.stat().st_mtime > written:
        yield f"warning  {weights} is newer than the bank; if these are other weights, make the bank anew"


def _local_weights(recipe: Recipe) -> Path | None:
    """The teacher's file of weights, if it is still there; it is never opened."""
    assert recipe.teacher is not None
    if recipe.teacher.weights in (None, "pretrained", "none"):
        return None
    with suppress(UserError):
        return weights_file(recipe.teacher.weights or "")
    return None


def refuse_absent_banks(recipe: Recipe) -> None:
    """Refuse a bank that is not there, or not for every seed of the run."""
    if recipe.bank is None:
        return
    path = recipe.bank.path
    absent = [seed for seed in recipe.seeds if not bank_folder(path, seed).is_begun]
    if not absent:
        return
    here = given_path(path, what="bank")
    if BankFolder(here).is_begun:
        raise UserError(f"bank {path}: this is the bank of one seed; give the folder that holds it, {here.parent}")
    names = [folder.name.removeprefix("seed") for folder in here.glob("seed*") if BankFolder(folder).is_begun]
    there = sorted(int(name) for name in names if name.isdigit())
    wanted = ",".join(map(str, absent))
    if not there:
        raise UserError(
            f"bank {path}: there is none, or none that got as far as its first shard; `understudy bank RECIPE --views "
            f"8 --out {path}` makes one"
        )
    views = max(bank_folder(path, seed).manifest().num_views for seed in there)
    raise UserError(
        f"bank {path} holds seed {', '.join(map(str, there))}, but this run also has seed {wanted}, whose augmentation "
        f"is another; add it (`understudy bank RECIPE --views {views} --seeds {wanted}, --out {path}`), or run with "
        f"--seeds {','.join(map(str, there))}{',' * (len(there) == 1)}"
    )


def _refuse_another_content(recipe: Recipe, banks: Mapping[int, BankTeacher]) -> None:
    """Seeds must be of one teacher, and the bank the same as when the recipe was written down."""
    assert recipe.bank is not None
    keys = {seed: bank.manifest.content_key for seed, bank in banks.items()}
    if len(set(keys.values())) > 1:
        raise UserError(
            f"bank {recipe.bank.path}: its seeds were made with different teachers or settings ({keys}); make them "
            "with one command"
        )
    found = next(iter(keys.values()))
    if recipe.bank.key not in (None, found):
        raise UserError(
            f"bank.key: {recipe.bank.path} has another content than this recipe was run with (here {found!r}, there "
            f"{recipe.bank.key!r}); leave the key out to take what is there"
        )


def _identity(source: Source) -> dict[str, Any]:
    """Number of images, all labels, and the pixels of a few images."""
    places = sorted({i * (len(source) - 1) // (NUM_PROBED - 1) for i in range(NUM_PROBED)})
    pixels = {}
    for place in places:
        with suppress(BadImageError), seeded(place):  # a data set's own transform may draw
            pixels[str(place)] = source.image(place)
    return {
        "images": len(source),
        "labels": fingerprint({"labels": source.labels}),
        "pixels": fingerprint(pixels),
    }
