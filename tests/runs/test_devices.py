"""The device of a recipe: what may be written, and what is refused where torch finds no such device."""

from __future__ import annotations

import pytest
import torch
import yaml

from helpers.command_line import RECIPE
from understudy.core.precision import widest_dtype
from understudy.distributed.launch import current, device_named
from understudy.distributed.world import World
from understudy.recipes.schema import recipe_from
from understudy.utils.errors import UserError
from understudy.utils.seeding import make_random_state, random_state

BASE = yaml.safe_load(RECIPE)
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
no_mps = pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:11", "mps"])
def test_a_recipe_takes_every_device_that_there_may_be(name: str) -> None:
    assert recipe_from(BASE, [f"device={name}"]).device == name


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "mps:0", "CUDA", "xpu", "''", "1"])
def test_what_is_no_device_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UserError, match="device") as refusal:
        recipe_from(BASE, [f"device={name}"])
    assert "cuda:1" in str(refusal.value) or "should be text" in str(refusal.value)


@no_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_cuda_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"device: {name}, but torch finds no CUDA device here; set device=cpu"):
        device_named(name)


@no_mps
def test_apples_gpu_is_refused_where_there_is_none() -> None:
    with pytest.raises(UserError, match="device: mps, but torch finds no GPU of Apple's here; set device=cpu"):
        device_named("mps")


def test_a_gpu_with_another_number_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"cuda:2, but torch finds 2 CUDA devices here \(cuda:0, cuda:1\)"):
        device_named("cuda:2")


def test_processes_that_each_take_a_gpu_cannot_share_a_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="cuda:1 is one GPU, and 2 processes train"):
        device_named("cuda:1", World(rank=1, size=2))


def test_the_cpu_needs_no_current_device() -> None:
    with current(torch.device("cpu")):
        assert torch.zeros(1).device.type == "cpu"


def test_sums_are_kept_in_float64_but_on_apples_gpu_which_has_none() -> None:
    assert widest_dtype(torch.device("cpu")) == widest_dtype(torch.device("cuda", 1)) == torch.float64
    assert widest_dtype(torch.device("mps")) == torch.float32


def test_the_random_state_of_every_generator_is_put_back() -> None:
    before = random_state()
    first = torch.rand(3)
    make_random_state(before)
    assert torch.equal(torch.rand(3), first)
