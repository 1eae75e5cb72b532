"""Recipe -> bank: the teacher's outputs on some augmented views of the training set, on disk once and for all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from understudy.data.loaders.boxes import refuse_others_padding
from understudy.data.sources.found import BadImages
from understudy.distributed.environment import launched_world_size
from understudy.distributed.launch import current, device_named
from understudy.recipes.comparison import Variant, rows_of
from understudy.recipes.schema import Recipe
from understudy.runs.bank.beside import bank_path, beside_key
from understudy.runs.bank.facts import stored_with, teacher_facts
from understudy.runs.bank.growing import GrowingBank, batches_at
from understudy.runs.bank.key import bank_key, versions_here
from understudy.runs.bank.layout import BankOptions, check_options, layout_of
from understudy.runs.bank.of_boxes import level_in_words, refuse_asking_rows
from understudy.runs.bank.open import bank_folder
from understudy.runs.bank.views import steps_note
from understudy.runs.build import build_trainer
from understudy.runs.checks import check_rows
from understudy.runs.component_changes import teachers_apart, with_data_settings
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display
from understudy.runs.failures import readable_errors
from understudy.runs.further_teachers import check_further_teachers
from understudy.runs.stop import StopRequest
from understudy.runs.teacher import check_teacher, evaluate_teacher
from understudy.runs.threads import usable_threads
from understudy.tasks import Evaluation
from understudy.teachers.bank.identity import refuse_another, refuse_another_beside, version_note
from understudy.teachers.bank.packing import BankLayout
from understudy.teachers.bank.store import BankFolder, Manifest
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted
from understudy.utils.lock import held
from understudy.utils.machine import cpu_threads, denormals_flushed, tf32
from understudy.utils.text import bytes_in_words, plural

__all__ = ["BankOptions", "make_banks"]


@dataclass(frozen=True)
class _Banking:
    """The banks of one teacher on their way, one seed after the other."""

    components: Components  # with this teacher alone
    layout: BankLayout
    options: BankOptions
    out: str
    display: Display
    stop: StopRequest
    key: Mapping[str, Any]  # of all seeds
    scores: Mapping[str, Evaluation] = field(default_factory=dict)


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
        refuse_asking_rows(components, rows)
        check_rows(components, rows)
        build_trainer(components, rows, recipe.seeds[0])  # taps the teacher, and refuses what a run would
        bankings = _bankings(components, rows, options, str(out), display, stop)
        _announce([*bankings.values()], out)
        scores = {head: evaluate_teacher(banking.components, stop=stop) for head, banking in bankings.items()}
        check_teacher(components, scores[None].get("val"), say=display.say)
        further = {head: found for head, found in scores.items() if head is not None}
        check_further_teachers(components, further, say=display.say)
        scored = [replace(banking, scores=scores[head]) for head, banking in bankings.items()]
        return [folder for seed in recipe.seeds for folder in _bank_seed(scored, seed)]


def _bankings(
    components: Components,
    rows: Sequence[Variant],
    options: BankOptions,
    out: str,
    display: Display,
    stop: StopRequest,
) -> dict[str | None, _Banking]:
    """What is banked of each teacher, by the head that learns from it; features are the first one's."""
    methods = [config for row in rows for config in row.method]
    student, size = components.student_network, components.image_size
    shown = components.teacher_size or size
    found = {}
    for head, alone in teachers_apart(components).items():
        beside = beside_key(components.recipe, head, shown=shown, image_size=size)
        found[head] = _Banking(
            components=alone,
            layout=layout_of(alone, methods if head is None else [], options),
            options=options,
            out=bank_path(out, head),
            display=display,
            stop=stop,
            key=bank_key(alone.recipe, components.data, image_size=size, student=student, beside=beside),
        )
    return found


def _announce(bankings: Sequence[_Banking], out: Path) -> None:
    """Say how large it is going to be, and stop where the disk has no room for it."""
    free = shutil.disk_usage(_existing(out)).free
    needed = whole = 0
    for banking in bankings:
        layout, options, seeds = banking.layout, banking.options, banking.components.recipe.seeds
        there = sum(_bytes_there(bank_folder(banking.out, seed)) for seed in seeds)
        total = layout.view_bytes * options.views * len(seeds)
        needed, whole = needed + total - there, whole + total
        in_words = _size_in_words if layout.canvas is None else level_in_words
        kept = ", ".join([layout.output.in_words(), *(f"{tap} {in_words(size)}" for tap, size in layout.taps.items())])
        about = "about " if layout.canvas == "batch" else ""
        banking.display.say(
            f"bank     {banking.out}: {plural(len(seeds), 'seed')} x {plural(options.views, 'view')} of "
            f"{_images_in_words(banking)}, {about}{layout.row_bytes:,} bytes each "
            f"({kept}; {layout.dtype}): {bytes_in_words(total)}, {bytes_in_words(free)} free"
        )
    if len(bankings) > 1:
        bankings[0].display.say(f"bank     {len(bankings)} teachers: {bytes_in_words(whole)} in all")
    a_view = sum(banking.layout.view_bytes * len(banking.components.recipe.seeds) for banking in bankings)
    first = bankings[0]
    if note := steps_note(first.components.recipe, first.layout.num_samples, first.options.views, view_bytes=a_view):
        first.display.say(note)
    if needed > free:
        raise UserError(
            f"this bank still needs {bytes_in_words(needed)}, and {out} has {bytes_in_words(free)} "
            "free; take fewer --views, --topk 32, --dtype float16, or an --out with more room"
        )


def _images_in_words(banking: _Banking) -> str:
    """'80 images x 2 copies', '128 images, padded in batches of 4'."""
    layout, data = banking.layout, banking.components.recipe.data
    words = f"{layout.num_samples:,} images"
    if layout.num_copies > 1:
        words += f" x {layout.num_copies} copies"
    if layout.num_repeats > 1:
        words += f" ({-(-layout.num_samples // layout.num_repeats):,} samples, {layout.num_repeats} times each)"
    if data.mix is not None:
        words += f", each mixed with its partner in batches of {data.batch_size}"
    if layout.canvas == "batch":
        return f"{words}, padded in batches of {data.batch_size}"
    return words if layout.canvas is None else f"{words}, padded to {_size_in_words(layout.canvas)}"


def _size_in_words(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _bytes_there(folder: BankFolder) -> int:
    return sum(shard.num_bytes for shard in folder.manifest().shards.values()) if folder.exists else 0


def _existing(path: Path) -> Path:
    path = path.expanduser().absolute()
    return path if path.exists() else _existing(path.parent)


def _bank_seed(bankings: Sequence[_Banking], seed: int) -> list[BankFolder]:
    """Write the shards of a seed that are not there yet, of all teachers, if no other process is about to."""
    wanted = [(banking, bank_folder(banking.out, seed), _wanted(banking, seed)) for banking in bankings]
    with ExitStack() as until_done:
        for _, folder, _ in wanted:
            until_done.enter_context(held(folder.path, what="bank"))
        growing = [
            GrowingBank(banking.components, folder, _started(banking, folder, new)) for banking, folder, new in wanted
        ]
        _write_missing(growing, seed, display=bankings[0].display, stop=bankings[0].stop)
    return [folder for _, folder, _ in wanted]


def _wanted(banking: _Banking, seed: int) -> Manifest:
    """The manifest of a seed, of which nothing is there yet; refused where something else is."""
    folder, wanted = bank_folder(banking.out, seed), _manifest(banking, seed)
    if folder.exists:  # one that an older version began goes on in its own form
        there = folder.manifest().layout
        form = {"centred": there.centred, "map_bytes": there.map_bytes}
        return wanted.model_copy(update={"layout": wanted.layout.model_copy(update=form)})
    # What is not ours is left without so much as a lock.
    if folder.path.is_dir() and any(folder.path.glob("[!.]*")):
        raise UserError(f"{folder.path} is not empty and holds no bank; take another --out")
    refuse_another_beside(folder, wanted)
    return wanted


def _write_missing(growing: Sequence[GrowingBank], seed: int, *, display: Display, stop: StopRequest) -> None:
    """Show each batch to the teachers whose rows of it are not there, in one pass over the images of a view."""
    label = f"bank of seed {seed}"
    for bank in growing:
        if not bank.manifest.missing:
            display.say(f"{label} is complete: {bank.manifest.num_views} views in {bank.folder.path}")
    num_views = max(bank.manifest.num_views for bank in growing)
    missing = {view: sorted(set().union(*(bank.steps_missing(view) for bank in growing))) for view in range(num_views)}
    total, done = sum(map(len, missing.values())), 0
    if not total:
        return
    components, layout = growing[0].components, growing[0].manifest.layout
    # An epoch's last, smaller batch is banked too, whether a run leaves it out or not.
    of_mixed = {} if components.recipe.data.mix is None else {"on_bad_image": "stop"}
    loader = with_data_settings(components, {"drop_last": False, **of_mixed}).whole_passes(seed)
    with display.stretch(total, images_per_step=layout.batch_size * layout.num_copies):
        for view, steps in missing.items():
            for step, batch in batches_at(loader, view, steps):
                if stop.signal is not None:
                    raise Interrupted(done, stop.signal)
                if layout.canvas == "batch":
                    refuse_others_padding(loader.skipped)
                for bank in growing:
                    bank.look(view, step, batch)
                done += 1
                display.update(done, f"{label} · view {view + 1}/{num_views}")
                for bank in growing:
                    bank.write_ended(view, step)
    if loader.skipped:
        display.say(BadImages(loader.skipped, ("image cannot be read", "images cannot be read")).note())


def _manifest(banking: _Banking, seed: int) -> Manifest:
    """That of a seed of which nothing is there yet."""
    return Manifest(
        key={**banking.key, "seed": seed},
        versions=versions_here(),
        teacher=teacher_facts(banking.components, banking.scores),
        layout=banking.layout,
        num_views=banking.options.views,
    )


def _started(banking: _Banking, folder: BankFolder, wanted: Manifest) -> Manifest:
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
        digest = folder.write_teacher(stored_with(banking.components, banking.scores))
        manifest = manifest.model_copy(update={"teacher": manifest.teacher.model_copy(update={"sha256": digest})})
    folder.write_manifest(manifest)
    return manifest
