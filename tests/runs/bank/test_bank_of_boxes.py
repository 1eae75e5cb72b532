"""A bank of a detector: levels of its pyramid, of images as their batch was padded, and a run that cannot tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.banked import files_of, furthest, losses_of, make, opened, with_bank
from helpers.displays import Eventful, Heard, press_ctrl_c
from helpers.engine import read_metrics, reproducible_files, run_recipe
from helpers.small_detector import small_faster_rcnn
from understudy import Recipe, UserError
from understudy.core.batch import Batch
from understudy.report import read_results
from understudy.teachers.bank.teacher import BankTeacher
from understudy.teachers.bank.view import BankView
from understudy.utils.interrupted import Interrupted

SIZES = [(40, 60), (60, 40), (30, 30), (64, 50), (40, 90), (33, 64), (60, 60)]  # height, width
SMALL = small_faster_rcnn()
STAGES = {"student_stages": [0, 1, 2, 3, 4], "teacher_stages": [0, 1, 2, 3, 4]}
ON_MAPS = [
    {"name": "fitnet", "relu": False, "weight": 1, "student_stages": [0, 1, 2], "teacher_stages": [0, 1, 2]},
    {"name": "fgfi", "weight": 1, **STAGES},
    {"name": "reviewkd", "embedding": False, "weight": 1, "warmup_epochs": 0},
    {"name": "projector", "spatial": True, "kl_weight": 0, "student_tap": "stages.1", "teacher_tap": "stages.1"},
]


def recipe_of(root: Path, **over: Any) -> Recipe:
    data = {"root": str(root), "batch_size": 2, "drop_last": True, "workers": 0, **over.pop("data", {})}
    settings = {
        "task": "detection",
        "data": data,
        "teacher": {**SMALL, "allow_weak": True},
        "student": SMALL,
        "method": ON_MAPS,
        "task_weight": 1,
        "update": {"name": "joint", "lr": 0.001},
        "epochs": 2,
        "threads": 1,
    }
    return Recipe.read({**settings, **over}, what="the test's recipe")


def folder_of_noise(root: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """Images of these heights and widths, the first five to train on, with a box each, as YOLO lays them."""
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate(sizes):
        split = "train" if number < 5 else "val"
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/{split}/{number}.png")
        (root / f"labels/{split}/{number}.txt").write_text(f"{number % 2} 0.5 0.5 0.4 0.4\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_noise(tmp_path_factory.mktemp("photos"), SIZES)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_noise(tmp_path_factory.mktemp("alike"), [(60, 40 + number) for number in range(7)])


@pytest.fixture(scope="module")
def bank(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    make(recipe_of(photos), folder, feature_maps=True)
    return folder


def without_kl(found: Any) -> Any:
    """Measures but for the distance to what the teacher's head says, which is not banked."""
    if isinstance(found, dict):
        return {name: without_kl(value) for name, value in found.items() if name != "kl_to_teacher"}
    return [without_kl(one) for one in found] if isinstance(found, list) else found


def map_bytes(folder: Path) -> int:
    """Of everything that the shards of a bank hold."""
    manifests = [json.loads(file.read_text()) for file in folder.rglob("bank.json")]
    return sum(shard["num_bytes"] for told in manifests for shard in told["shards"].values())


def test_of_images_of_unlike_sizes_gradients_and_losses_are_the_live_teachers(photos: Path, bank: Path) -> None:
    live_gradients, live = losses_of(recipe_of(photos), 4)
    gradients, banked = losses_of(with_bank(recipe_of(photos), bank), 4)
    assert furthest(gradients, live_gradients) <= 1e-6
    assert banked == without_kl(live)
    canvases = {tuple(batch.images.shape[2:]) for batch in opened(recipe_of(photos))[0].train_loader(0).epoch(1)}
    assert len(canvases) > 1  # else nothing is shown here


def test_of_images_that_are_all_padded_alike_a_run_may_have_other_batches(alike: Path, tmp_path: Path) -> None:
    recipe = recipe_of(alike, method=ON_MAPS[1])
    make(recipe, tmp_path, feature_maps=True)
    wider = recipe_of(alike, method=ON_MAPS[1], data={"batch_size": 3})
    live_gradients, live = losses_of(wider, 2)
    gradients, banked = losses_of(with_bank(wider, tmp_path), 2)
    assert furthest(gradients, live_gradients) <= 1e-5
    assert all(one == pytest.approx(other, rel=1e-5) for one, other in zip(banked, without_kl(live), strict=True))


def test_in_float16_losses_are_near(photos: Path, tmp_path: Path) -> None:
    make(recipe_of(photos), tmp_path, feature_maps=True, dtype="float16", views=1)
    (live,), (banked,) = losses_of(recipe_of(photos), 1)[1], losses_of(with_bank(recipe_of(photos), tmp_path), 1)[1]
    assert banked == pytest.approx(without_kl(live), rel=1e-3)
    assert banked != without_kl(live)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_size_that_is_said_beforehand_is_that_of_the_files(dtype: str, photos: Path, tmp_path: Path) -> None:
    heard = Heard()
    make(recipe_of(photos), tmp_path, feature_maps=True, dtype=dtype, display=heard)
    layout = BankTeacher(tmp_path / "seed0").manifest.layout
    heads = 8 * 1024  # of safetensors' files
    assert layout.view_bytes * 2 == pytest.approx(map_bytes(tmp_path), abs=heads)
    said = next(text for text in heard.said if text.startswith("bank "))
    assert "1 seed x 2 views of 5 images, padded in batches of 2, about " in said
    assert (
        "(maps alone, stages.0 x 8 channels, stages.1 x 8 channels, stages.2 x 8 channels, stages.3 x 8 chann" in said
    )


def test_levels_are_refused_with_the_size_that_they_would_take(alike: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        make(recipe_of(alike), tmp_path, dtype="float16")
    # 8 channels of 16^2 + 8^2 + 4^2 + 2^2 + 1 positions, of 5 images in 2 views, with 13 bytes of numbers each.
    assert "stages.0 x 8 channels" in str(refused.value)
    assert "stages.4 x 8 channels)" in str(refused.value)
    with pytest.raises(UserError, match="--topk 2: of a detector no logits are kept"):
        make(recipe_of(alike), tmp_path, topk=2)
    assert "which make the bank 54.7 kB for 2 views of a seed; give --feature-maps if that" in str(refused.value)
    assert not any(tmp_path.iterdir())


def test_a_view_is_read_for_the_batch_that_it_was_padded_in_alone(photos: Path, bank: Path) -> None:
    teacher = BankTeacher(bank / "seed0")
    teacher.tap(["stages.1"])
    components, _ = opened(recipe_of(photos))
    first, second, *_ = components.train_loader(0).epoch(1)
    assert first.images.shape[2:] != second.images.shape[2:]
    seen = teacher.observe(first)
    assert (seen.output, seen.ask) == (None, None)
    height, width = first.images.shape[2:]
    assert seen.features["stages.1"].shape == (2, 8, height // 8, width // 8)
    alone = teacher.observe(first.select(slice(1, 2)))  # as another process asks
    assert torch.equal(alone.features["stages.1"], seen.features["stages.1"][1:])
    with pytest.raises(UserError, match=rf"and this batch is padded to {height + 32}x{width}, which"):
        teacher.observe(Batch(torch.zeros(2, 3, height + 32, width), None, indices=first.indices))
    assert first.indices is not None
    assert second.indices is not None
    mixed = torch.stack([first.indices[0], second.indices[0]])
    with pytest.raises(UserError, match="maps of several sizes of these images, which were not in one batch"):
        teacher.observe(Batch(first.images, None, indices=mixed))
    with pytest.raises(UserError, match=r"does not hold 'embedding' of the teacher, only stages.0, stages.1, "):
        teacher.tap(["embedding"])


@pytest.mark.parametrize("harm", ["no canvas", "three sides"])
def test_a_shard_that_does_not_say_how_its_images_were_padded_is_refused(harm: str, bank: Path) -> None:
    teacher = BankTeacher(bank / "seed0")
    rows = teacher.folder.read_shard(teacher.manifest, 0, 0, checked=False)
    canvas = rows.pop("canvas")
    changed = rows if harm == "no canvas" else {**rows, "canvas": canvas[:, [0, 1, 1]]}
    with pytest.raises(UserError, match="the bank holds a shard that no bank has written"):
        BankView([changed], teacher.manifest.layout, name="the bank", device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("over", "text"),
    [
        (
            {"data": {"batch_size": 3}},
            r"(?s)images.padded_in_batches_of   here 3, there 2.*with the padding of its batch",
        ),
        ({"data": {"aspect_groups": True}}, r"(?s)images.aspect_groups.*with the padding of its batch"),
        ({"data": {"shorter_side": 32}}, r"images.shorter_sides"),
        ({"data": {"augment": "none"}}, r"images.augment.flip|images.augment.name"),
        ({"seeds": [1]}, "holds seed 0, but this run also has seed 1"),
    ],
)
def test_a_bank_of_other_pixels_is_refused(over: dict[str, Any], text: str, photos: Path, bank: Path) -> None:
    with pytest.raises(UserError, match=text):
        opened(with_bank(recipe_of(photos, **over), bank))


def test_rows_that_ask_the_teachers_head_are_refused_by_name(photos: Path, bank: Path, tmp_path: Path) -> None:
    fgfi = {"name": "fgfi", "method": ON_MAPS[1]}
    asking = {"rows": ["alone", "dist", fgfi, {"name": "both", "method": [{"name": "kd"}, ON_MAPS[1]]}]}
    with pytest.raises(UserError) as refused:
        make(recipe_of(photos, **asking), tmp_path, feature_maps=True)
    assert "a bank cannot teach rows dist, both (kd): there the teacher's head is asked about the boxes" in str(
        refused.value
    )
    assert "(--rows alone,fgfi)" in str(refused.value)
    with pytest.raises(UserError, match=r"a bank cannot teach row dkd: there .* \(such as --rows alone,fitnet,fgfi"):
        run_recipe(with_bank(recipe_of(photos, rows=["alone", "dkd"]), bank), tmp_path / "run")
    with pytest.raises(UserError, match="no row of this recipe reads a level of the teacher's pyramid"):
        make(recipe_of(photos, rows=["alone"]), tmp_path, feature_maps=True)


def test_a_lost_shard_and_further_views_are_made_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    make(recipe_of(photos, method=ON_MAPS[1]), tmp_path / "once", feature_maps=True)
    make(recipe_of(photos, method=ON_MAPS[1]), tmp_path / "grown", feature_maps=True, views=1)
    next((tmp_path / "grown").rglob("*shard*2.safetensors")).unlink()
    make(recipe_of(photos, method=ON_MAPS[1]), tmp_path / "grown", feature_maps=True)
    once, grown = files_of(tmp_path / "once"), files_of(tmp_path / "grown")
    assert {name for name in once if once[name] != grown[name]} <= {"seed0/bank.json"}  # its average size
    assert once.keys() == grown.keys()


@pytest.mark.slow
def test_a_run_is_that_of_the_live_teacher_and_goes_on_where_it_was_stopped(
    photos: Path, bank: Path, tmp_path: Path
) -> None:
    rows = {"rows": ["alone", {"name": "fgfi", "method": ON_MAPS[1]}], "epochs": 3}  # one more than there are views
    live = run_recipe(recipe_of(photos, **{**rows, "epochs": 2}), tmp_path / "live")
    short = run_recipe(with_bank(recipe_of(photos, **{**rows, "epochs": 2}), bank), tmp_path / "short")
    assert without_kl(read_metrics(short)) == without_kl(read_metrics(live))
    ours, theirs = read_results(short.path), read_results(live.path)
    assert ours.teacher is not None
    assert theirs.teacher is not None
    assert ours.teacher.val == theirs.teacher.val
    summaries = [
        [row.summary.model_copy(update={"kl_to_teacher": None}) for row in each.rows] for each in (ours, theirs)
    ]
    assert summaries[0] == summaries[1]
    whole = run_recipe(with_bank(recipe_of(photos, **rows), bank), tmp_path / "whole")
    with pytest.raises(Interrupted):
        run_recipe(with_bank(recipe_of(photos, **rows), bank), tmp_path / "again", display=Eventful(1, 5, press_ctrl_c))
    again = run_recipe(with_bank(recipe_of(photos, **rows), bank), tmp_path / "again")
    expected, found = reproducible_files(whole), reproducible_files(again)
    assert {name for name in expected if expected[name] != found.get(name)} <= {"results.json"}  # its run's name
