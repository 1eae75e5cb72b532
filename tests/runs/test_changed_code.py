"""A run that was stopped, and whose code is another when it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from understudy.runs.failures import says_what_no_longer_fits
from understudy.utils.errors import UserError


def test_a_checkpoint_of_another_network_is_refused_in_words() -> None:
    with (
        pytest.raises(UserError, match=r"the run in runs/a was stopped with another network.*size mismatch for weight"),
        says_what_no_longer_fits(Path("runs/a")),
    ):
        nn.Linear(2, 4).load_state_dict(nn.Linear(2, 3).state_dict())


def test_an_optimizer_of_other_parameters_is_refused_likewise() -> None:
    before = torch.optim.SGD(nn.Linear(2, 3).parameters(), lr=0.1)
    now = torch.optim.SGD(nn.Linear(2, 3, bias=False).parameters(), lr=0.1)
    with pytest.raises(UserError, match="parameter group"), says_what_no_longer_fits(Path("runs/a")):
        now.load_state_dict(before.state_dict())


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="a bug"), says_what_no_longer_fits(Path("runs/a")):
        raise RuntimeError("a bug")
