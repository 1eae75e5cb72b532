"""Too little memory, in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from understudy.utils.out_of_memory import out_of_memory


def test_what_torch_and_numpy_cannot_allocate_is_said_with_ways_out() -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**60)
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**58, dtype=np.uint8)
    for error in (torchs.value, numpys.value):
        said = out_of_memory(error)
        assert said is not None
        assert "out of memory" in said
        assert "allocate" in said
        assert "data.batch_size" in said


def test_a_gpu_without_room_is_told_by_its_first_sentence() -> None:
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 4 GiB"
    )
    assert str(out_of_memory(error)).startswith("out of memory (tried to allocate 2.50 GiB): take smaller batches")


def test_other_errors_are_left_alone() -> None:
    assert out_of_memory(RuntimeError("shapes do not fit")) is None
