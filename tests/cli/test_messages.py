"""Messages name the option that was typed; without it, the setting."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from helpers.command_line import TEACHER, refused
from understudy.cli.messages import speaking_of, typed_options
from understudy.cli.options import SETTINGS, RecipeOptions
from understudy.utils.errors import UserError

REST = ("--student", "cifar:resnet8", *TEACHER)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "gone"), "--data: there is nothing at gone"),
        (("data.root=gone", "--data", "digits"), "data.root: there is nothing at gone"),
        (("--data", "digits", "--batch-size", "0"), "--batch-size input should be greater than or equal to 1, got 0"),
        (("--data", "digits", "data.batch_size=0"), "data.batch_size input should be greater than or equal to 1"),
        (("--data", "digits", "--lr", "-1"), "--lr input should be greater than 0, got -1"),
        (("--data", "digits", "--weight-decay", "-1"), "--weight-decay input should be"),
        (("--data", "digits", "--workers", "-1"), "--workers input should be"),
        (("--data", "digits", "--threads", "0"), "--threads input should be"),
        (("--data", "digits", "--device", "gpu"), "--device must be auto, cpu, cuda, cuda:N (such as cuda:1) or mps"),
        (
            ("--data", "digits", "--device", "mps"),
            "--device: mps, but torch finds no GPU of Apple's here; set --device cpu",
        ),
        (("--data", "digits", "--image-size", "9999"), "--image-size is 1 to 8,192 pixels a side"),
    ],
)
def test_what_is_wrong_is_said_of_what_was_typed(words: tuple[str, ...], message: str) -> None:
    assert message in refused("check", *REST, *words)


def test_without_the_option_the_setting_is_named(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("data: {root: gone}\nstudent: {model: cifar:resnet8}\n")
    assert "data.root: there is nothing at gone" in refused("check", file)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("raise data.image_size, or", "raise --image-size, or"),
        ("another data.batch_size.", "another --batch-size."),
        ("set device=cpu", "set --device cpu"),
        ("device: cuda, but", "--device: cuda, but"),
        ("a device: cuda of this device", "a device: cuda of this device"),
        ("data.batch_size_of and xdata.batch_size", "data.batch_size_of and xdata.batch_size"),
        ("set data.root=FOLDER (--data FOLDER) to", "set --data FOLDER to"),
        ("/there/data.root/x", "/there/data.root/x"),
        ("update.lr   is", "update.lr   is"),
    ],
)
def test_only_keys_are_reworded_and_only_those_typed(before: str, after: str) -> None:
    typed = RecipeOptions(data="x", batch_size=3, image_size="4", device="cpu")
    with pytest.raises(UserError) as refusal, speaking_of(typed_options(typed)):
        raise UserError(before)
    assert str(refusal.value) == after


def test_every_shared_option_that_sets_something_says_what() -> None:
    about_the_command = {"words", "sweep", "out", "overwrite", "allow_code"}
    assert {field.name for field in fields(RecipeOptions)} - about_the_command == set(SETTINGS)
