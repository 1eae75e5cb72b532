"""Making a bank: what is written, what a stop or a kill leaves of it, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.banked import files_of, make, small_recipe
from helpers.displays import Eventful, Heard
from understudy.recipes.schema import Recipe
from understudy.teachers.bank.teacher import BankTeacher
from understudy.utils.errors import UserError
from understudy.utils.interrupted import Interrupted

SMALL_SHARDS = {"shard_samples": 32}  # one batch each: three to a view


class LostError(Exception):
    """A process that is gone in the middle of something."""


def test_a_bank_says_in_a_file_what_it_is_of_and_what_it_holds(tmp_path: Path) -> None:
    (folder,) = make(small_recipe({"method": {"name": "projector"}}), tmp_path, **SMALL_SHARDS)
    assert folder.path == tmp_path / "seed0"
    told = json.loads((folder.path / "bank.json").read_text())
    assert told["key"]["teacher"] == {
        "model": "cifar:resnet8",
        "kwargs": {"width": 0.5},
        "weights": "none",
        "first_seed": 0,
    }
    assert told["key"]["images"]["augment"] == {"name": "crop_flip", "pad": 1, "flip": False}
    assert told["key"]["seed"] == 0
    assert told["layout"]["taps"] == {"embedding": [32]}
    assert list(told["shards"]) == ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2"]
    for name, shard in told["shards"].items():
        view, number = map(int, name.split("/"))
        content = folder.shard_file(view, number).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (shard["sha256"], shard["num_bytes"])


def test_its_size_is_said_before_it_is_made(tmp_path: Path) -> None:
    display = Heard()
    make(small_recipe(), tmp_path, display=display, dtype="float16", views=3)
    (line,) = [text for text in display.said if text.startswith("bank ")]
    assert "1 seed x 3 views of 80 images, 29 bytes each (10 logits; float16): 6.96 kB" in line


def test_several_seeds_lie_beside_each_other_and_show_other_views(tmp_path: Path) -> None:
    first, second = make(small_recipe({"seeds": [0, 3]}), tmp_path, views=1)
    assert [first.path.name, second.path.name] == ["seed0", "seed3"]
    one, other = (folder.read_shard(folder.manifest(), 0, 0, checked=False) for folder in (first, second))
    assert not torch.equal(one["logits"][one["indices"].argsort()], other["logits"][other["indices"].argsort()])


@pytest.mark.parametrize("step", [1, 2, 4, 6])
def test_a_bank_that_was_cut_off_becomes_the_one_left_in_peace(step: int, tmp_path: Path) -> None:
    make(small_recipe(), tmp_path / "whole", **SMALL_SHARDS)

    def lose() -> None:
        raise LostError

    with pytest.raises(LostError):
        make(small_recipe(), tmp_path / "cut", display=Eventful(1, step, lose), **SMALL_SHARDS)
    with pytest.raises(UserError, match=f"incomplete: {step - 1} of 6 shards"):
        BankTeacher(tmp_path / "cut/seed0")
    kept = {
        name: (tmp_path / "cut" / name).stat().st_mtime_ns for name in files_of(tmp_path / "cut") if "shard" in name
    }
    make(small_recipe(), tmp_path / "cut", **SMALL_SHARDS)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert len(kept) == step - 1
    assert all((tmp_path / "cut" / name).stat().st_mtime_ns == then for name, then in kept.items())


def test_a_signal_stops_it_in_words_and_it_goes_on(tmp_path: Path) -> None:
    stop = Eventful(1, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as stopped:
        make(small_recipe(), tmp_path, display=stop, **SMALL_SHARDS)
    assert (stopped.value.step, stopped.value.signal) == (4, signal.SIGTERM)
    make(small_recipe(), tmp_path, **SMALL_SHARDS)
    assert BankTeacher(tmp_path / "seed0").num_views == 2


KILLED_AFTER = """\
import os, signal, sys
from pathlib import Path
from helpers.banked import make, small_recipe
from helpers.displays import Eventful
die = Eventful(1, 5, lambda: os.kill(os.getpid(), signal.SIGKILL))
make(small_recipe(), Path(sys.argv[1]), display=die, shard_samples=32)
"""


@pytest.mark.slow
def test_a_bank_that_was_killed_becomes_the_one_left_in_peace(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_AFTER, str(tmp_path / "cut")]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=600)
    assert killed.returncode == -signal.SIGKILL
    make(small_recipe(), tmp_path / "cut", **SMALL_SHARDS)
    make(small_recipe(), tmp_path / "whole", **SMALL_SHARDS)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


def test_more_views_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path / "grown", views=1, **SMALL_SHARDS)
    make(small_recipe(), tmp_path / "grown", views=3, **SMALL_SHARDS)
    make(small_recipe(), tmp_path / "whole", views=3, **SMALL_SHARDS)
    assert files_of(tmp_path / "grown") == files_of(tmp_path / "whole")
    display = Heard()
    make(small_recipe(), tmp_path / "grown", views=2, display=display, **SMALL_SHARDS)
    assert any("is complete: 3 views" in text for text in display.said)


@pytest.mark.parametrize("harm", ["flipped", "shortened", "deleted"])
def test_a_damaged_shard_is_noticed_and_made_again(harm: str, tmp_path: Path) -> None:
    (folder,) = make(small_recipe(), tmp_path, **SMALL_SHARDS)
    file, before = folder.shard_file(1, 1), files_of(tmp_path)
    content = file.read_bytes()
    if harm == "deleted":
        file.unlink()
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if harm == "flipped" else content[:-9])
    display = Heard()
    make(small_recipe(), tmp_path, display=display, **SMALL_SHARDS)
    assert any("1 shards of" in text and "made again" in text for text in display.said)
    assert files_of(tmp_path) == before


def test_rotated_copies_are_all_banked(tmp_path: Path) -> None:
    (folder,) = make(small_recipe({"data": {"copies": "rotations"}}), tmp_path, views=1)
    rows = folder.read_shard(folder.manifest(), 0, 0, checked=False)
    places = {(index, copy) for index, copy in zip(rows["indices"].tolist(), rows["copies"].tolist(), strict=True)}
    assert places == {(index, copy) for index in range(80) for copy in range(4)}


def test_a_last_batch_that_a_run_leaves_out_is_banked_all_the_same(tmp_path: Path) -> None:
    (folder,) = make(small_recipe({"data": {"drop_last": True}}), tmp_path, views=1)
    assert len(folder.read_shard(folder.manifest(), 0, 0, checked=False)["indices"]) == 80


@pytest.mark.parametrize(
    ("over", "options", "said"),
    [
        ({"teacher": {"kwargs": {"width": 0.25}}}, {}, r"teacher\.kwargs\.width   here 0\.25, there 0\.5"),
        ({"data": {"augment": "none"}}, {}, r"images\.augment\.name   here 'none', there 'crop_flip'"),
        ({"data": {"copies": "rotations"}}, {}, r"images\.copies   here 'rotations', there 'none'"),
        ({"data": {"train_rows": "0:79"}}, {}, r"data\.train\.images   here 79, there 80"),
        ({"data": {"train_rows": "1:81"}}, {}, r"data\.train\.labels   here"),
        ({"data": {"val_rows": "1001:1101"}}, {}, r"data\.val\.labels   here"),
        ({"precision": "bfloat16"}, {}, "precision   here 'bfloat16', there 'float32'"),
        ({"method": {"name": "projector"}}, {}, r"keeps\.taps\.embedding   here \[32\], there None"),
        ({}, {"dtype": "float16"}, r"keeps\.dtype   here 'float16', there 'float32'"),
        ({}, {"topk": 3}, r"keeps\.topk   here 3, there None"),
    ],
)
def test_a_bank_of_something_else_is_not_added_to(
    over: dict[str, Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    make(small_recipe(), tmp_path, views=1)
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=f"(?s)holds a bank of something else.*{said}"):
        make(small_recipe(over), tmp_path, views=1, **options)
    assert files_of(tmp_path) == before


def test_new_weights_under_an_old_name_are_another_teacher(tmp_path: Path) -> None:
    weights = tmp_path / "teacher.pt"
    for width in (1.0, 2.0):
        torch.save(_scaled(width), weights)
        recipe = small_recipe({"teacher": {"weights": str(weights)}})
        if width == 1.0:
            make(recipe, tmp_path / "bank", views=1)
    with pytest.raises(UserError, match="teacher weights   here"):
        make(recipe, tmp_path / "bank", views=1)


def _scaled(width: float) -> dict[str, torch.Tensor]:
    from understudy.models import create_model

    torch.manual_seed(0)
    state = create_model("cifar:resnet8", num_classes=10, weights="none", kwargs={"width": 0.5}).module.state_dict()
    return {**state, "fc.weight": width * state["fc.weight"]}


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no bank"):
        make(small_recipe(), tmp_path)
    assert files_of(tmp_path) == {"seed0/thesis.txt": b"mine"}


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(UserError, match=r"needs 7.2 kB, and .* has 5 kB free; take fewer --views, --topk 32"):
        make(small_recipe(), tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


def test_feature_maps_are_stored_only_when_that_is_asked_for(tmp_path: Path) -> None:
    recipe = small_recipe({"method": {"name": "at"}})
    with pytest.raises(
        UserError, match=r"feature maps.*stages\.0 8x8x8.*make the bank 908 kB for 2 views.*--feature-maps"
    ):
        make(recipe, tmp_path)
    make(recipe, tmp_path, feature_maps=True, views=1)
    assert BankTeacher(tmp_path / "seed0").manifest.layout.groups == {"stages": tuple(f"stages.{i}" for i in range(4))}


def test_a_teacher_that_knows_nothing_is_not_banked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no better than chance"):
        make(small_recipe({"teacher": {"allow_weak": False}}), tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"data": {"sampling": "balanced"}}, "balanced sampling draws some several times and some not at all"),
        ({"teacher": {"train_epochs": 2}}, "a teacher that is trained already"),
        ({"teacher": None, "method": []}, r"a bank is of a teacher; set teacher\.model"),
    ],
)
def test_recipes_that_no_bank_can_serve_are_refused(over: dict[str, Any], said: str, tmp_path: Path) -> None:
    recipe = Recipe.read({**small_recipe().as_dict(), **_laid(over)}, what="the test's recipe")
    with pytest.raises(UserError, match=said):
        make(recipe, tmp_path)


def _laid(over: dict[str, Any]) -> dict[str, Any]:
    base = small_recipe().as_dict()
    return {key: {**base[key], **value} if isinstance(value, dict) else value for key, value in over.items()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"views": 0}, "--views 0"),
        ({"dtype": "int8"}, "--dtype 'int8': there are float16 and float32"),
        ({"topk": 0}, "--topk 0"),
        ({"topk": 10}, "10 of 10 classes leaves out none"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        make(small_recipe(), tmp_path, **options)


def test_only_one_process_makes_a_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="made by one process; leave torchrun away"):
        make(small_recipe(), tmp_path)
