"""Two calls that make the same bank at once: the second is refused, and the first is left in peace."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from helpers.banked import files_of, make, small_recipe
from helpers.displays import Eventful
from understudy.utils.errors import UserError

FORKING = multiprocessing.get_context("fork")  # a start afresh would import torch again, for seconds


def answer_to_a_second_call(out: Path) -> str:
    """What another process is told that makes the same bank."""
    with ProcessPoolExecutor(1, mp_context=FORKING) as pool:
        return pool.submit(_refusal, out).result(timeout=600)


def _refusal(out: Path) -> str:
    try:
        make(small_recipe(), out, shard_samples=32)
    except UserError as error:
        return str(error)
    return "made"


def test_a_second_call_is_refused_while_the_first_is_at_work(tmp_path: Path) -> None:
    said: list[str] = []
    second = Eventful(1, 3, lambda: said.append(answer_to_a_second_call(tmp_path / "bank")))
    make(small_recipe(), tmp_path / "bank", display=second, shard_samples=32)
    assert len(said) == 1
    assert said[0].startswith(f"bank {tmp_path / 'bank/seed0'} is being written to by another process (process ")
    make(small_recipe(), tmp_path / "whole", shard_samples=32)
    assert files_of(tmp_path / "bank") == files_of(tmp_path / "whole")


def test_a_call_after_the_first_has_ended_is_not(tmp_path: Path) -> None:
    make(small_recipe(), tmp_path, shard_samples=32)
    assert answer_to_a_second_call(tmp_path) == "made"
