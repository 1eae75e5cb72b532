"""Training from a bank: the teacher is never loaded, and a bank that does not fit the run is refused in words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers.banked import losses_of, make, opened, small_recipe, teacher_file, with_bank
from helpers.command_line import done, refused
from helpers.engine import read_metrics, run_recipe
from helpers.images import write_tree
from understudy import Batch, methods
from understudy.recipes.schema import Recipe, merged
from understudy.runs.folder import RunFolder
from understudy.teachers.bank.teacher import BankTeacher
from understudy.utils.errors import UserError


def recipe_file(folder: Path, recipe: Recipe) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.as_dict()))
    return file


def test_the_command_line_banks_and_trains_and_the_teachers_weights_are_not_needed_again(tmp_path: Path) -> None:
    weights = teacher_file(tmp_path / "teacher.pt")
    file = recipe_file(tmp_path, small_recipe({"teacher": {"weights": str(weights)}, "method": {"name": "srrl"}}))
    said = done("bank", file, "--views", "2", "--out", tmp_path / "bank", "--dtype", "float32", "--feature-maps")
    assert f"Train from it with --bank {tmp_path / 'bank'}" in said
    live = done("train", file, "--out", tmp_path / "live")
    weights.unlink()
    said = done("train", file, "--bank", tmp_path / "bank", "--out", tmp_path / "banked")
    assert "from bank" in said
    assert "not loaded" in said
    assert read_metrics(RunFolder(tmp_path / "banked")) == read_metrics(RunFolder(tmp_path / "live"))
    assert "teacher" in live


def test_a_bank_knows_its_teacher(tmp_path: Path) -> None:
    weights = teacher_file(tmp_path / "teacher.pt")
    words = ("--data", "digits", "--student", "cifar:resnet8", "epochs=1", "data.train_rows='0:64'")
    teacher = ("--teacher", "cifar:resnet8", "--teacher-weights", weights, "teacher.kwargs={width: 0.5}")
    bank = tmp_path / "the bank"
    said = done("bank", *words, *teacher, "--allow-weak-teacher", "--views", "1", "--out", bank)
    assert f"Train from it with --bank '{bank}'" in said
    weights.unlink()
    again = ("--bank", bank, "--allow-weak-teacher", *words)
    assert "not loaded" in done("train", *again, "--out", tmp_path / "run")
    written = RunFolder(tmp_path / "run").recipe()["teacher"]
    assert (written["model"], written["weights"]) == ("cifar:resnet8", str(weights))
    assert "not loaded" in done("train", *again, "--teacher", "cifar:resnet8", "--out", tmp_path / "named")
    assert "--teacher here 'cifar:resnet20', there 'cifar:resnet8'" in refused(
        "train", *again, "--teacher", "cifar:resnet20", "--out", tmp_path / "other"
    )


def test_a_bank_that_is_not_there_is_said_where_no_teacher_is_named(tmp_path: Path) -> None:
    said = refused("train", "--data", "digits", "--student", "cifar:resnet8", "--bank", tmp_path / "nowhere")
    assert "there is none, and so no teacher" in said


def test_check_reads_a_bank_too(tmp_path: Path) -> None:
    file = recipe_file(tmp_path, small_recipe())
    make(small_recipe(), tmp_path / "bank")
    said = done("check", file, "--bank", tmp_path / "bank")
    assert "2 views), not loaded" in said
    assert "s an epoch" in said


def test_evaluate_needs_no_bank_any_more(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path / "bank")
    run = run_recipe(with_bank(small_recipe(), tmp_path / "bank"), tmp_path / "run")
    for file in sorted((tmp_path / "bank").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    assert "top-1" in done("evaluate", run.path)


def test_the_run_writes_down_the_key_of_its_bank_and_refuses_another_content(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path / "bank")
    run = run_recipe(with_bank(small_recipe(), tmp_path / "bank"), tmp_path / "run")
    written = run.recipe()
    assert written["bank"]["key"] == BankTeacher(tmp_path / "bank/seed0").manifest.content_key
    make(small_recipe(), tmp_path / "other", topk=3)
    written["bank"]["path"] = str(tmp_path / "other")
    with pytest.raises(UserError, match=r"bank\.key: .* has another content than this recipe was run with"):
        opened(Recipe.read(written, what="again"))


def test_a_row_of_a_comparison_may_be_taken_from_a_bank_of_more(tmp_path: Path) -> None:
    make(small_recipe({"rows": ["kd", "projector", "crd"]}), tmp_path)
    _, trainer = opened(with_bank(small_recipe({"method": {"name": "projector"}}), tmp_path))
    assert list(trainer.students[0].methods[0].method.context.teacher) == ["embedding"]


def test_a_method_that_reads_what_was_not_stored_is_refused_by_name(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path)
    with pytest.raises(
        UserError, match=r"method 'projector': bank .* does not hold 'embedding' .* only logits; bank a"
    ):
        opened(with_bank(small_recipe({"method": {"name": "projector"}}), tmp_path))


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"teacher": {"model": "cifar:resnet14"}}, r"teacher\.model   here 'cifar:resnet14', there 'cifar:resnet8'"),
        ({"teacher": {"weights": "best.pt"}}, r"teacher\.weights   here 'best\.pt', there 'none'"),
        ({"data": {"augment": {"name": "crop_flip", "pad": 2}}}, r"images\.augment\.pad   here 2, there 1"),
        ({"data": {"copies": "rotations"}}, r"images\.copies   here 'rotations', there 'none'"),
        ({"data": {"train_rows": "0:64"}}, r"data\.train\.images   here 64, there 80"),
        ({"precision": "bfloat16"}, "precision   here 'bfloat16', there 'float32'"),
    ],
)
def test_a_bank_of_something_else_is_refused_saying_what_differs(
    over: dict[str, Any], said: str, tmp_path: Path
) -> None:
    make(small_recipe(), tmp_path, views=1)
    recipe = Recipe.read(merged(with_bank(small_recipe(), tmp_path).as_dict(), over), what="the other recipe")
    with pytest.raises(UserError, match=f"(?s)is of something else than this run; bank it anew:.*{said}"):
        opened(recipe)


@pytest.mark.parametrize("over", [{"data": {"batch_size": 16, "drop_last": True}}, {"epochs": 5}, {"ema": 0.9}])
def test_what_the_teacher_does_not_see_may_change(over: dict[str, Any], tmp_path: Path) -> None:
    make(small_recipe(), tmp_path, views=1)
    opened(Recipe.read(merged(with_bank(small_recipe(), tmp_path).as_dict(), over), what="the other recipe"))


def test_a_seed_without_a_bank_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path)
    advice = r"holds seed 0, but this run also has seed 1,2.*--views 2 --seeds 1,2, .*--seeds 0,"
    with pytest.raises(UserError, match=advice):
        opened(with_bank(small_recipe({"seeds": [0, 1, 2]}), tmp_path))


def test_the_bank_of_one_seed_is_told_from_the_folder_that_holds_it(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path, views=1)
    with pytest.raises(UserError, match=rf"the bank of one seed; give the folder that holds it, {tmp_path}$"):
        opened(with_bank(small_recipe(), tmp_path / "seed0"))


def test_a_folder_that_no_bank_was_begun_in_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "seed0").mkdir()
    with pytest.raises(UserError, match=r"holds no bank \(no seed0/bank\.json in it\); `understudy bank RECIPE"):
        opened(with_bank(small_recipe(), tmp_path))


def test_an_absent_bank_is_refused_before_an_image_is_read(tmp_path: Path) -> None:
    recipe = small_recipe({"data": {"root": str(tmp_path / "no images")}})
    with pytest.raises(UserError, match="there is none"):
        opened(with_bank(recipe, tmp_path / "nowhere"))


def test_a_bank_that_was_moved_to_another_seed_is_noticed(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path, views=1)
    (tmp_path / "seed0").rename(tmp_path / "seed1")
    with pytest.raises(UserError, match="seed   here 1, there 0"):
        opened(with_bank(small_recipe({"seeds": [1], "teacher": {"weights": "none"}}), tmp_path))


def test_where_there_is_no_bank_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere: there is none; `understudy bank RECIPE --views 8 --out .*` makes one"
    ):
        opened(with_bank(small_recipe(), tmp_path / "nowhere"))


def test_unique_views_need_one_for_each_epoch(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path)
    unique = {"path": str(tmp_path), "views": "unique"}
    opened(with_bank(small_recipe({"epochs": 2}), tmp_path, bank=unique))
    with pytest.raises(UserError, match=r"has 2 views for 3 epochs; add views .*--views 3.*bank.views=repeat"):
        opened(with_bank(small_recipe({"epochs": 3}), tmp_path, bank=unique))


def test_streams_are_refused_with_a_bank(tmp_path: Path) -> None:
    file = recipe_file(tmp_path, small_recipe())
    said = refused("train", file, "--bank", tmp_path, "data.root=hf:some/images", "data.streaming=true")
    assert "a bank is asked by sample number" in said


@pytest.mark.parametrize("harm", ["shortened", "lengthened", "deleted"])
def test_a_shard_that_is_gone_is_noticed_before_training(harm: str, tmp_path: Path) -> None:
    (folder,) = make(small_recipe(), tmp_path)
    file = folder.shard_file(1, 0)
    content = file.read_bytes()
    file.unlink()
    if harm != "deleted":
        file.write_bytes(content[:-9] if harm == "shortened" else content + b"more")
    with pytest.raises(UserError, match="1 of 2 shards are gone or cut short, such as view0001/shard00000"):
        opened(with_bank(small_recipe(), tmp_path))


def test_a_shard_with_another_checksum_is_refused_when_its_view_is_first_read(tmp_path: Path) -> None:
    (folder,) = make(small_recipe(), tmp_path)
    file = folder.shard_file(1, 0)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    bank = BankTeacher(folder.path)
    asked = [Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1), indices=torch.tensor([3]), view=view) for view in (0, 1)]
    assert bank.observe(asked[0]).output.shape == (1, 10)
    with pytest.raises(UserError, match=r"view0001/shard00000\.safetensors: is damaged"):
        bank.observe(asked[1])


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": 1}', '{"format": 2}', "null", "1e999", '{"key": ' + "[" * 90 + "]" * 90 + "}"]
)
def test_a_damaged_manifest_is_refused_in_words(text: str, tmp_path: Path) -> None:
    (folder,) = make(small_recipe(), tmp_path, views=1)
    folder.manifest_file.write_text(text)
    with pytest.raises(UserError, match=r"bank\.json"):
        BankTeacher(folder.path)


def test_a_manifest_that_notes_as_many_shards_but_others_is_refused_in_words(tmp_path: Path) -> None:
    (folder,) = make(small_recipe(), tmp_path)
    folder.manifest_file.write_text(folder.manifest_file.read_text().replace('"1/0"', '"7/0"'))
    with pytest.raises(UserError, match="is incomplete"):
        BankTeacher(folder.path)


def test_a_manifest_of_impossible_size_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    (folder,) = make(small_recipe(), tmp_path, views=1)
    told = json.loads(folder.manifest_file.read_text())
    told["num_views"], told["layout"]["num_samples"] = 10_000, 2**31 - 1
    folder.manifest_file.write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"incomplete: 1 of \d{8,} shards"):
        BankTeacher(folder.path)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ({"indices": torch.full((80,), 80, dtype=torch.int32)}, "rows of images beyond the 80"),
        ({"indices": torch.full((80,), -1, dtype=torch.int32)}, "rows of images beyond the 80"),
        ({"copies": torch.ones(80, dtype=torch.uint8)}, "rows of images beyond the 80"),
        ({"logits": torch.zeros(79, 10)}, "a shard that no bank has written"),
    ],
)
def test_a_shard_that_was_put_in_the_place_of_another_is_refused(
    harm: dict[str, torch.Tensor], said: str, tmp_path: Path
) -> None:
    (folder,) = make(small_recipe(), tmp_path, views=1)
    manifest = folder.manifest()
    folder.write_shard(manifest, 0, 0, {**folder.read_shard(manifest, 0, 0, checked=False), **harm})
    with pytest.raises(UserError, match=said):
        BankTeacher(folder.path).observe(Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1), indices=torch.tensor([0])))


def test_images_without_numbers_cannot_be_looked_up(tmp_path: Path) -> None:
    (folder,) = make(small_recipe(), tmp_path, views=1)
    with pytest.raises(UserError, match="asked by sample number, and these batches have none"):
        BankTeacher(folder.path).observe(Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1)))


def test_networks_from_python_are_looked_at_live(tmp_path: Path) -> None:
    from helpers.tiny import tiny_data, tiny_network, tiny_teacher
    from understudy import distill

    with pytest.raises(UserError, match="handed over in Python are looked at live; leave it out"):
        distill(
            tiny_teacher(), tiny_network(4), train=tiny_data(), epochs=1, quiet=True, out=tmp_path / "run",
            method=methods.KD.Config(), settings={"bank": {"path": str(tmp_path)}},
        )  # fmt: skip


def test_an_image_that_could_not_be_read_is_not_asked_for(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "images", {f"{split}/{name}": 6 for split in ("train", "val") for name in "ab"})
    (tree / "train/a/2.jpg").write_bytes(b"no image")
    (tree / "train/b/9.jpg").write_bytes((tree / "train/b/1.jpg").read_bytes()[:200])
    data = {"root": str(tree), "train_rows": None, "val_rows": None, "cache": False, "workers": 0, "batch_size": 4}
    recipe = small_recipe({"data": {**data, "image_size": 16}, "epochs": 2})
    make(recipe, tmp_path / "bank")
    live = run_recipe(recipe, tmp_path / "live")
    banked = run_recipe(with_bank(recipe, tmp_path / "bank"), tmp_path / "banked")
    assert read_metrics(banked) == read_metrics(live)


def test_a_teacher_at_another_size_is_banked_at_its_own(tmp_path: Path) -> None:
    tree = write_tree(
        tmp_path / "images", {f"{split}/{name}": 6 for split in ("train", "val") for name in "ab"}, (80, 90)
    )
    data = {"root": str(tree), "train_rows": None, "val_rows": None, "workers": 0, "batch_size": 4, "image_size": None}
    student = {"model": "timm:resnet10t", "weights": "none"}
    teacher = {"model": "timm:vit_tiny_patch16_224", "weights": "none", "allow_weak": True}
    sized = {"patch_size": 56, "embed_dim": 24, "depth": 1, "num_heads": 2}
    recipe = small_recipe({"data": {**data, "augment": "resized_crop"}, "student": student})
    recipe = Recipe.read({**recipe.as_dict(), "teacher": {**teacher, "kwargs": sized}}, what="two sizes")
    (folder,) = make(recipe, tmp_path / "bank", views=1)
    assert folder.manifest().teacher.image_size == 224
    banked = with_bank(recipe, tmp_path / "bank")
    parts, _ = opened(banked)
    assert next(parts.train_loader(0).epoch(1)).teacher_images is None  # nobody looks at them
    assert parts.image_size == 176
    assert losses_of(banked, 2)[1] == losses_of(recipe, 2)[1]


def test_images_that_are_augmented_elsewhere_are_others(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "images", {f"{split}/{name}": 6 for split in ("train", "val") for name in "ab"})
    data = {"root": str(tree), "train_rows": None, "val_rows": None, "workers": 0, "image_size": 16}
    recipe = small_recipe({"data": data})
    make(recipe, tmp_path / "bank", views=1)
    with pytest.raises(UserError, match="in_memory   here None, there 24"):
        opened(with_bank(recipe, tmp_path / "bank", data={**recipe.as_dict()["data"], "cache": False}))


@pytest.mark.slow
def test_two_processes_read_one_bank(tmp_path: Path) -> None:
    file = recipe_file(tmp_path, small_recipe({"device": "cpu", "data": {"batch_size": 40}}))
    make(small_recipe({"data": {"batch_size": 40}}), tmp_path / "bank")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for name, option in (("live", ()), ("banked", ("--bank", str(tmp_path / "bank")))):
        words = ("-m", "understudy", "train", str(file), *option, "--out", str(tmp_path / name))
        said = subprocess.run([*torchrun, *words], capture_output=True, text=True, timeout=600)
        assert said.returncode == 0, said.stderr
    live, banked = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("live", "banked"))
    assert banked["rows"][0]["seeds"] == live["rows"][0]["seeds"]
