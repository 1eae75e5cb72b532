"""Recipe -> bank: the teacher's outputs on some augmented views of the training set, on disk once and for all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.core.batch import Batch
from understudy.core.precision import autocast
from understudy.data import TrainLoader
from understudy.data.sources.found import BadImages
from understudy.distributed.environment import launched_world_size
from understudy.distributed.launch import current, device_named
from understudy.recipes.comparison import rows_of
from understudy.recipes.schema import Recipe
from understudy.runs.bank.facts import stored_with, teacher_facts
from understudy.runs.bank.key import bank_key, versions_here
from understudy.runs.bank.layout import BankOptions, check_options, layout_of
from understudy.runs.bank.of_boxes import refuse_boxes
from understudy.runs.bank.open import bank_folder
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows
from understudy.runs.component_changes import with_data_settings
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display
from understudy.runs.failures import readable_errors
from understudy.runs.stop import StopRequest
from understudy.runs.teacher import check_teacher, evaluate_teacher
from understudy.runs.threads import usable_threads
from understudy.tasks import Evaluation
from understudy.teachers.bank.identity import refuse_another, refuse_another_beside, version_note
from understudy.teachers.bank.packing import BankLayout, joined_rows, packed
from understudy.teachers.bank.store import BankFolder, Manifest
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted
from understudy.utils.lock import held
from understudy.utils.machine import cpu_threads, denormals_flushed, tf32
from understudy.utils.text import bytes_in_words, plural

__all__ = ["BankOptions", "make_banks"]


@dataclass(frozen=True)
class _Banking:
    """A bank on its way, one seed after the other."""

    components: Components
    layout: BankLayout
    options: BankOptions
    out: str
    display: Display
    stop: StopRequest
    key: Mapping[str, Any]  # of all seeds


def make_banks(
    recipe: Recipe, *, out: Path, options: BankOptions, allow_code: bool = False, display: Display
) -> list[BankFolder]:
    """Bank the teacher of a recipe for each of its seeds, from wherever an earlier call was stopped.

    Args:
        recipe: names teacher, data, transforms, seeds, and the methods whose taps are stored.
        out: seed N goes to OUT/seedN.
        options: what is kept.
        allow_code: models may be named as module.path:factory.
        display: tells people how far it is.

    Raises:
        UserError: anything a person can mend: a weak teacher, a full disk, a bank of something else in `out`.
        Interrupted: stopped by a signal; the same call goes on from there.
    """
    if launched_world_size() > 1:
        raise UserError("a bank is made by one process; leave torchrun away (training from a bank may use it)")
    check_options(options)
    # What is refused of a run with a bank is refused before there is one.
    Recipe.read({**recipe.as_dict(), "bank": {"path": str(out)}}, what="a bank of this recipe")
    recipe = recipe.model_copy(update={"bank": None})
    stop = StopRequest()
    with (
        cpu_threads(recipe.threads or usable_threads()),
        tf32(recipe.tf32),
        current(device_named(recipe.device)),
        denormals_flushed(),
        readable_errors(out, what="bank", last="shard"),
        stop.listening(),
    ):
        components = open_components(recipe, allow_code=allow_code, say=display.say)
        recipe = components.recipe  # with the teacher's classes by number
        rows = rows_of(recipe)
        refuse_boxes(components, rows, bytes_a_value=4 if options.dtype == "float32" else 2)
        check_rows(components, rows)
        build_trainer(components, rows, recipe.seeds[0])  # taps the teacher, and refuses what a run would
        layout = layout_of(components, [config for row in rows for config in row.method], options)
        key = bank_key(recipe, components.data, image_size=components.image_size, student=components.student_network)
        banking = _Banking(components, layout, options, str(out), display, stop, key)
        _announce(banking)
        scores = evaluate_teacher(components, stop=stop)
        check_teacher(components, scores.get("val"), say=display.say)
        return [_bank_seed(banking, seed, scores) for seed in recipe.seeds]


def _announce(banking: _Banking) -> None:
    """Say how large it is going to be, and stop where the disk has no room for it."""
    layout, options, seeds = banking.layout, banking.options, banking.components.recipe.seeds
    there = sum(_bytes_there(bank_folder(banking.out, seed)) for seed in seeds)
    total = layout.view_bytes * options.views * len(seeds)
    free = shutil.disk_usage(_existing(Path(banking.out))).free
    kept = ", ".join(
        [layout.output.in_words(), *(f"{tap} {'x'.join(map(str, size))}" for tap, size in layout.taps.items())]
    )
    copies = f" x {layout.num_copies} copies" if layout.num_copies > 1 else ""
    if banking.components.recipe.data.mix is not None:
        copies += f", each mixed with its partner in batches of {banking.components.recipe.data.batch_size}"
    banking.display.say(
        f"bank     {banking.out}: {plural(len(seeds), 'seed')} x "
        f"{plural(options.views, 'view')} of {layout.num_samples:,} images{copies}, {layout.row_bytes:,} bytes each "
        f"({kept}; {layout.dtype}): {bytes_in_words(total)}, {bytes_in_words(free)} free"
    )
    if total - there > free:
        raise UserError(
            f"this bank still needs {bytes_in_words(total - there)}, and {banking.out} has {bytes_in_words(free)} "
            "free; take fewer --views, --topk 32, --dtype float16, or an --out with more room"
        )


def _bytes_there(folder: BankFolder) -> int:
    return sum(shard.num_bytes for shard in folder.manifest().shards.values()) if folder.exists else 0


def _existing(path: Path) -> Path:
    path = path.expanduser().absolute()
    return path if path.exists() else _existing(path.parent)


def _bank_seed(banking: _Banking, seed: int, scores: Mapping[str, Evaluation]) -> BankFolder:
    """Write the shards of a seed that are not there yet, if no other process is about to."""
    folder = bank_folder(banking.out, seed)
    wanted = _manifest(banking, seed, scores)
    if folder.exists:  # one that an older version began goes on in its own form
        form = {"centred": folder.manifest().layout.centred}
        wanted = wanted.model_copy(update={"layout": wanted.layout.model_copy(update=form)})
    if not folder.exists:  # what is not ours is left without so much as a lock
        if folder.path.is_dir() and any(folder.path.glob("[!.]*")):
            raise UserError(f"{folder.path} is not empty and holds no bank; take another --out")
        refuse_another_beside(folder, wanted)
    with held(folder.path, what="bank"):
        _write_missing(banking, seed, folder, _started(banking, folder, wanted, scores))
    return folder


def _write_missing(banking: _Banking, seed: int, folder: BankFolder, manifest: Manifest) -> None:
    missing = manifest.missing
    label = f"bank of seed {seed}"
    if not missing:
        banking.display.say(f"{label} is complete: {manifest.num_views} views in {folder.path}")
        return
    # An epoch's last, smaller batch is banked too, whether a run leaves it out or not.
    of_mixed = {} if banking.components.recipe.data.mix is None else {"on_bad_image": "stop"}
    components = with_data_settings(banking.components, {"drop_last": False, **of_mixed})
    loader = components.train_loader(seed)
    layout, done = manifest.layout, 0
    total = sum(len(layout.steps_of(number)) for _, number in missing)
    with banking.display.stretch(total, images_per_step=layout.batch_size * layout.num_copies):
        for place, batches in _shards(loader, manifest):
            kept = []
            for batch in batches:
                if banking.stop.signal is not None:
                    raise Interrupted(done, banking.stop.signal)
                kept.append(_teacher_rows(components, batch, layout))
                done += 1
                banking.display.update(done, f"{label} · view {place[0] + 1}/{manifest.num_views}")
            manifest = folder.write_shard(manifest, *place, joined_rows(kept))
    if loader.skipped:
        banking.display.say(BadImages(loader.skipped, ("image cannot be read", "images cannot be read")).note())


def _shards(loader: TrainLoader, manifest: Manifest) -> Iterator[tuple[tuple[int, int], Iterator[Batch]]]:
    """Each missing shard with its batches; one pass goes on through the shards that follow each other in a view."""
    layout, next_place = manifest.layout, (-1, -1)
    batches: Iterator[Batch] = iter(())
    for view, number in manifest.missing:
        steps = layout.steps_of(number)
        if (view, number) != next_place:
            batches = loader.epoch(view + 1, steps.start)
        yield (view, number), islice(batches, len(steps))
        next_place = (view, number + 1)


def _teacher_rows(components: Components, batch: Batch, layout: BankLayout) -> dict[str, Tensor]:
    """The rows of one batch, in its own order, with the numbers by which they are found."""
    assert batch.indices is not None
    with autocast(components.recipe.precision, components.device):
        observation = components.shown_teacher.observe(batch.to(components.device))
    copies = torch.zeros_like(batch.indices) if batch.copies is None else batch.copies
    found = {"indices": batch.indices.to("cpu", torch.int32), "copies": copies.to("cpu", torch.uint8)}
    return {**found, **packed(observation.output, observation.features, layout)}


def _manifest(banking: _Banking, seed: int, scores: Mapping[str, Evaluation]) -> Manifest:
    """That of a seed of which nothing is there yet."""
    return Manifest(
        key={**banking.key, "seed": seed},
        versions=versions_here(),
        teacher=teacher_facts(banking.components, scores),
        layout=banking.layout,
        num_views=banking.options.views,
    )


def _started(banking: _Banking, folder: BankFolder, wanted: Manifest, scores: Mapping[str, Evaluation]) -> Manifest:
    """The manifest of this seed: a new one, or that of an earlier call with the shards that are whole."""
    manifest = wanted
    if folder.exists:
        manifest = folder.manifest()
        refuse_another(folder, manifest, wanted)
        if note := version_note(f"bank {folder.path}", manifest.versions, wanted.versions):
            banking.display.say(note)
        whole = folder.whole_shards(manifest)
        if len(whole) < len(manifest.shards):
            lost = len(manifest.shards) - len(whole)
            banking.display.say(f"{lost} shards of {folder.path} are gone or damaged, and are made again")
        views = max(wanted.num_views, manifest.num_views)
        manifest = manifest.model_copy(update={"shards": whole, "num_views": views})
    if not folder.has_teacher(manifest):
        digest = folder.write_teacher(stored_with(banking.components, scores))
        manifest = manifest.model_copy(update={"teacher": manifest.teacher.model_copy(update={"sha256": digest})})
    folder.write_manifest(manifest)
    return manifest
