"""Everything that a run computes lies on the run's device; held on machines without a GPU, too (pretended_cuda)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.engine import tiny_recipe
from helpers.pretended_cuda import CUDA, devices_of, pretended_cuda
from understudy.core.precision import upcast
from understudy.distributed.world import RankCounts
from understudy.models.cost import count_macs, images_per_second, model_facts
from understudy.recipes.comparison import rows_of
from understudy.runs.bank.layout import BankOptions
from understudy.runs.bank.make import make_banks
from understudy.runs.build import build_trainer, deployed_network
from understudy.runs.component_changes import with_teacher
from understudy.runs.components import Components, open_components
from understudy.runs.console import Display
from understudy.runs.memory_format import Trial, faster_format
from understudy.teachers.bank.packing import packed
from understudy.teachers.bank.seeds import SeededBanks
from understudy.teachers.bank.teacher import BankTeacher
from understudy.training.loss import PassShare, combine_losses
from understudy.training.metrics import record_of
from understudy.training.trainer import Trainer

ROWS = ["alone", "kd", "dist+dot", "projector", "simkd", "reviewkd"]


def opened(**settings: Any) -> Components:
    """A tiny run's parts on the CPU; enter `pretended_cuda` and move them with `on_cuda`."""
    over = {"rows": ROWS, "seeds": [0], "ema": {"decay": 0.9}, "fold_teacher": False}
    return open_components(tiny_recipe({**over, **settings}), allow_code=False, say=lambda _: None)


def on_cuda(components: Components) -> Components:
    """As `in_world` moves them where there is a GPU."""
    assert components.teacher_network is not None
    return with_teacher(replace(components, device=CUDA), components.teacher_network)


def trainer_on_cuda(components: Components) -> Trainer:
    return build_trainer(components, rows_of(components.recipe), 0)


def tensors_in(state: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        yield from chain.from_iterable(map(tensors_in, state.values()))
    elif isinstance(state, list | tuple):
        yield from chain.from_iterable(map(tensors_in, state))


@pytest.fixture
def components() -> Components:
    return opened()


def test_the_guard_refuses_what_a_gpu_refuses() -> None:
    with pretended_cuda():
        here, there = torch.rand(3), torch.rand(3, device=CUDA)
        with pytest.raises(RuntimeError, match=r"same device|different devices"):
            here + there
        assert (there + there.to(CUDA)).device == CUDA
        assert here.numpy().shape == (3,)
        with pytest.raises(TypeError, match="cuda:0 device type tensor to numpy"):
            there.numpy()


def test_what_a_trainer_is_made_of_lies_on_its_device(components: Components) -> None:
    with pretended_cuda():
        trainer = trainer_on_cuda(on_cuda(components))
        for student in trainer.students:
            modules = [student.model, student.connectors, student.deployed(), student.raw_deployed()]
            tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
            assert devices_of(tensors) == {"cuda"}, student.name
            state = student.state_dict()
            kept = [state[key] for key in ("model", "connectors", "update", "average")]
            assert devices_of(tensors_in(kept)) == {"cuda"}, student.name


def test_losses_of_every_row_are_worked_out_on_the_device(components: Components) -> None:
    with pretended_cuda():
        components = on_cuda(components)
        trainer = trainer_on_cuda(components)
        batch = next(iter(components.train_loader(0).epoch(1)))
        assert {batch.images.device, batch.targets.device} == {CUDA}
        assert trainer.teacher is not None
        observation = trainer.teacher.observe(batch)
        for student in trainer.students:
            if student.name == "simkd":
                continue  # compares values on its first batch
            student.begin_step(progress=0.0, epochs=1)
            task_loss, pairings = student.task.pair(student.model, observation, batch)
            pairing = upcast(pairings["main"])
            losses, whole = combine_losses(
                task_loss,
                pairing,
                student.methods,
                task_weight=student.task_weight,
                epoch=1,
                part=PassShare(RankCounts((len(batch.images),))),
                random_state=student.shared_random_state,
            )
            assert devices_of(tensors_in([losses.task, losses.distill, losses.terms])) == {"cuda"}, student.name
            trainer.measures.add(student.name, record_of(whole, pairing, student.task.batch_measures(pairing)))


@pytest.mark.parametrize("split", ["val", "train"])
def test_evaluation_stays_on_the_device(components: Components, split: str) -> None:
    with pretended_cuda():
        components = on_cuda(components)
        found = trainer_on_cuda(components).evaluate(components.eval_loader(split))
    assert set(found) == set(ROWS)


def test_what_is_kept_of_a_seed_is_counted_and_timed_on_the_device(components: Components) -> None:
    """The run's own preparation of images stays on the CPU when the student goes to the GPU."""
    expected = count_macs(components.student_network.prepared, components.image_size)
    with pretended_cuda():
        components = on_cuda(components)
        for student in trainer_on_cuda(components).students:
            network = deployed_network(components, student)
            assert devices_of(chain(network.prepared.parameters(), network.prepared.buffers())) == {"cuda"}
            facts = model_facts(network, components.image_size)
            assert facts["macs"] >= expected
            speed = images_per_second(network.prepared, image_size=components.image_size, batch_size=2, seconds=0.0)
            assert speed > 0


def test_a_memory_format_is_chosen_on_the_device(components: Components) -> None:
    with pretended_cuda():
        network = on_cuda(components).teacher_network
        assert network is not None
        _, seconds = faster_format(network, Trial(2, components.image_size, CUDA))
    assert min(seconds) > 0


def test_what_is_learnt_from_a_bank_lies_on_the_device(tmp_path: Path) -> None:
    rows = ["kd", "projector", "simkd"]
    recipe = tiny_recipe({"rows": rows, "seeds": [0], "fold_teacher": False})
    options = BankOptions(views=1, feature_maps=True)
    [folder] = make_banks(recipe, out=tmp_path, options=options, display=Display(quiet=True))
    banks = SeededBanks({0: BankTeacher(folder.path)}, path=str(tmp_path))
    components = opened(rows=rows)
    with pretended_cuda():
        live = on_cuda(components)
        teacher = trainer_on_cuda(live).teacher
        assert teacher is not None
        batch = next(iter(live.train_loader(0).epoch(1)))
        seen = teacher.observe(batch)
        stored = packed(seen.output, seen.features, folder.manifest().layout)
        assert devices_of(iter(stored.values())) == {"cpu"}  # on its way to the disk
        for student in trainer_on_cuda(replace(live, teacher=banks, teacher_network=None)).students:
            tensors = chain(student.connectors.parameters(), student.connectors.buffers())
            assert devices_of(tensors) <= {"cuda"}, student.name
