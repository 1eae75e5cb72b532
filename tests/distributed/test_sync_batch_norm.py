"""Batch statistics over all processes: torch's SyncBatchNorm, which takes CPU tensors by the tests' kernels alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.shared_steps import five_steps, recipe_of, too_far
from helpers.synced_norms import BATCH_NORM, five_synced_steps
from helpers.two_processes import TwoProcesses
from understudy import UserError
from understudy.distributed.world import World
from understudy.runs.components import Components, open_components

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="SyncBatchNorm takes CUDA tensors only")


def opened(device: str, size: int) -> Components:
    recipe = recipe_of("dist", "joint", {**BATCH_NORM, "sync_batch_norm": True, "device": device})
    return open_components(recipe, allow_code=False, say=lambda text: None, world=World(size=size))


def test_it_is_refused_on_the_cpu_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"sync_batch_norm: torch has it for GPUs only.*set sync_batch_norm=false"):
        opened("cpu", size=2)


def test_a_single_process_needs_none() -> None:
    module = opened("cpu", size=1).student_network.module
    assert not any(isinstance(child, nn.SyncBatchNorm) for child in module.modules())


@pytest.mark.parametrize("update", ["joint", "dot"])
@pytest.mark.parametrize("method", ["kd", "dist", "projector"])
def test_two_processes_on_the_cpu_equal_one_with_batch_norm(method: str, update: str, pair: TwoProcesses) -> None:
    """Weights, momenta, running statistics and losses, after uneven batches too."""
    pair.start(five_synced_steps, method, update, BATCH_NORM)
    one = five_steps(method, update, torch.float64, BATCH_NORM)
    first, second = pair.finish()
    assert any("running_var" in name for name in one.state)
    assert too_far(one, first, 1e-9) == {}
    assert all(torch.equal(tensor, second.state[name]) for name, tensor in first.state.items())


def test_without_it_they_differ(pair: TwoProcesses) -> None:
    one = five_steps("kd", "joint", torch.float64, BATCH_NORM)
    first, _ = pair.call(five_steps, "kd", "joint", torch.float64, BATCH_NORM)
    assert max(too_far(one, first, 1e-9).values()) > 1e-3


@needs_cuda
def test_every_batch_norm_of_the_student_is_converted_and_the_teacher_s_are_not() -> None:
    components = opened("cuda", size=2)
    norms = [
        child
        for child in components.student_network.module.modules()
        if isinstance(child, nn.modules.batchnorm._NormBase)
    ]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert components.teacher_network is not None
    assert not any(isinstance(child, nn.SyncBatchNorm) for child in components.teacher_network.module.modules())


@needs_cuda
@pytest.mark.parametrize("update", ["joint", "dot"])
@pytest.mark.parametrize("method", ["kd", "dist", "crd", "projector"])
def test_two_processes_with_it_equal_one_with_batch_norm(method: str, update: str, gpu_pair: TwoProcesses) -> None:
    """Running statistics included, and the uneven last batch; the teacher's pass on other batch sizes rounds alike."""
    over = {**BATCH_NORM, "device": "cuda", "sync_batch_norm": True}
    one = five_steps(method, update, torch.float64, over)
    first, second = gpu_pair.call(five_steps, method, update, torch.float64, over)
    assert too_far(one, first, 1e-9) == {}
    assert all(torch.equal(tensor, second.state[name]) for name, tensor in first.state.items())
