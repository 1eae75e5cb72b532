"""Denormal numbers are nothing within a run, and what they were outside of it."""

import pytest
import torch

from understudy.utils.machine import denormals_flushed

TINY = torch.full((4,), 1e-39)


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush denormals")
def test_denormals_are_flushed_until_the_block_ends() -> None:
    assert (TINY * 1.0 != 0).all()
    with denormals_flushed():
        assert (TINY * 1.0 == 0).all()
        with denormals_flushed():
            assert (TINY * 1.0 == 0).all()
        assert (TINY * 1.0 == 0).all()  # a block within another does not end it
    assert (TINY * 1.0 != 0).all()
